"""A box for SQL: read-only, bounded in rows, size and time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sqlalchemy.engine import Connection

from fedsweep.errors import SqlRefused
from fedsweep.serve import views
from fedsweep.serve.look import SELDOM, Look
from fedsweep.serve.screen import Screen, part
from fedsweep.store.sql import ask
from fedsweep.store.sql.ask import Answer
from fedsweep.store.views import NAMES

ROWS = 1_000
SECONDS = 10.0
BYTES = 2**20
"""Of a whole answer."""
PATIENCE = 1.0
"""Seconds for which a statement waits for others."""
LONGEST = 20_000
"""Characters of a statement."""

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
"""Ready statements, by what they tell."""

_TWO_AT_A_TIME = threading.BoundedSemaphore(2)
"""Statements of people must not take all the connections from the pages."""


def sql(look: Look, asked: Mapping[str, str]) -> Screen:
    """The box, and the answer to what is in it."""
    statement = asked.get("q", "").strip()
    answer, wrong = None, ""
    if statement:
        try:
            answer = answered(look, statement)
        except SqlRefused as error:
            wrong = str(error)
    columns = look.read(_columns, keep=SELDOM)
    parts = [
        part("box", "sql_box.html", live=False, statement=statement, queries=QUERIES, wrong=wrong),
        part("answer", "sql_answer.html", live=False, answer=answer, shown=views.shown, most=ROWS),
        part("columns", "sql_columns.html", live=False, columns=columns),
    ]
    return Screen("sql", "SQL", parts, status=400 if wrong else 200)


def answered(look: Look, statement: str) -> Answer:
    """The rows of a statement, within bounds.

    Raises:
        SqlRefused: it does more than read, is wrong, or takes too long.

    """
    if len(statement) > LONGEST:
        raise SqlRefused(f"the statement has more than {LONGEST:,} characters: shorten it")
    if not _TWO_AT_A_TIME.acquire(timeout=PATIENCE):
        raise SqlRefused("two other statements are being answered: try again when they are")
    try:
        return ask.ask(look.engine, statement, limit=ROWS, seconds=SECONDS, room=BYTES)
    finally:
        _TWO_AT_A_TIME.release()


def _columns(connection: Connection) -> dict[str, list[str]]:
    """The columns of each view."""
    found = {n: connection.exec_driver_sql(f"SELECT * FROM {n} WHERE 1 = 0") for n in NAMES}
    return {name: list(result.keys()) for name, result in found.items()}
