"""The screen "SQL": runs one read-only statement, with limits on rows, bytes and time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sqlalchemy.engine import Connection

from fedsweep.errors import SqlRefused
from fedsweep.serve import presentation
from fedsweep.serve.read_cache import PLAN_TICKS, ReadCache
from fedsweep.serve.screen import Screen, part
from fedsweep.store.sql import ask
from fedsweep.store.sql.ask import Answer
from fedsweep.store.views import NAMES

ROWS = 1_000
"""Rows that an answer may have."""
SECONDS = 10.0
"""Seconds that a statement may take."""
BYTES = 2**20
"""Bytes that an answer may have."""
WAIT_SECONDS = 1.0
"""Seconds for which a statement waits until another one has ended."""
MAX_CHARACTERS = 20_000
"""Characters that a statement may have."""

QUERIES = {
    "Accuracy by normalizer and α": """\
SELECT normalizer, alpha, count(*) AS n, avg(test_accuracy) AS test_accuracy
FROM results WHERE state = 'finished' GROUP BY normalizer, alpha ORDER BY normalizer, alpha""",
    "The best T⋆ of each α": """\
SELECT alpha, local_steps, freeze_round, n, mean_test_accuracy, std_test_accuracy
FROM cells WHERE normalizer = 'fixbn' AND n > 0
ORDER BY alpha, local_steps, mean_test_accuracy DESC""",
    "Failures by kind": """\
SELECT failure, count(*) AS n FROM results WHERE failure IS NOT NULL GROUP BY failure""",
    "Rounds trained, shared and lost": """\
SELECT sweep, rounds_trained, rounds_shared, rounds_lost FROM ledger""",
    "The slowest trials": """\
SELECT trial_id, normalizer, seconds, final_round, seconds / final_round AS seconds_a_round
FROM results WHERE final_round > 0 ORDER BY 5 DESC LIMIT 20""",
}
"""Example statements by title."""

_TWO_AT_A_TIME = threading.BoundedSemaphore(2)
"""Limits the statements that run at once, so that pages always get a database connection."""


def sql(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen with the statement, its answer, and the columns of the views."""
    statement = query.get("q", "").strip()
    answer, error_text = None, ""
    if statement:
        try:
            answer = answer_statement(cache, statement)
        except SqlRefused as error:
            error_text = str(error)
    columns = cache.read(_columns, ticks=PLAN_TICKS)
    parts = [
        part("box", "sql_box.html", live=False, statement=statement, queries=QUERIES,
             error=error_text),
        part("answer", "sql_answer.html", live=False, answer=answer,
             cell_text=presentation.cell_text),
        part("columns", "sql_columns.html", live=False, columns=columns),
    ]  # fmt: skip
    return Screen("sql", "SQL", parts, status=400 if error_text else 200)


def answer_statement(cache: ReadCache, statement: str) -> Answer:
    """Return the rows of a statement, within the limits.

    Raises:
        SqlRefused: the statement does not only read, is invalid, or takes too long.

    """
    if len(statement) > MAX_CHARACTERS:
        raise SqlRefused(f"the statement has more than {MAX_CHARACTERS:,} characters: shorten it")
    if not _TWO_AT_A_TIME.acquire(timeout=WAIT_SECONDS):
        raise SqlRefused("two other statements are being answered: try again when they are")
    try:
        return ask.ask(cache.engine, statement, limit=ROWS, seconds=SECONDS, room=BYTES)
    finally:
        _TWO_AT_A_TIME.release()


def _columns(connection: Connection) -> dict[str, list[str]]:
    """Return the columns of each view."""
    results = {n: connection.exec_driver_sql(f"SELECT * FROM {n} WHERE 1 = 0") for n in NAMES}
    return {name: list(result.keys()) for name, result in results.items()}
