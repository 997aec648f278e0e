"""`db check` finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from fedsweep import queue
from fedsweep.plans import Round, read_plan
from fedsweep.store import planning, round_rows, schema
from fedsweep.store.clock import read_clock
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.tables import attempts, rounds, trials
from fedsweep.store.transactions import transaction
from fedsweep.transfer import integrity
from tests.acceptance.command import at_once
from tests.builders import WORKER


@pytest.fixture
def worked(store: Engine, tiny: Path) -> Engine:
    """A store with a finished, a running and waiting trials."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        now = read_clock(c)
        done = queue.claim(c, WORKER, now)
        assert done is not None
        for r in (1, 2, 3):
            row = Round(r, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)
            assert round_rows.add_rounds(c, done, [row]) is None
        queue.finish(c, done)
        assert queue.claim(c, WORKER, now) is not None
    return store


def test_a_store_at_work_is_sound(worked: Engine) -> None:
    """Finished, running and queued trials alike."""
    assert integrity.faults(worked) == []


def delete_round(c: Connection) -> None:
    c.execute(sa.delete(rounds).where(rounds.c.round == 2))


def second_finish(c: Connection) -> None:
    c.execute(sa.update(attempts).where(attempts.c.trial == 2).values(trial=1, fence=9))
    c.execute(sa.update(attempts).where(attempts.c.fence == 9).values(outcome="finished"))


def other_number(c: Connection) -> None:
    c.execute(sa.update(trials).where(trials.c.id == 1).values(test_accuracy=0.75))


def end_of_a_running_attempt(c: Connection) -> None:
    c.execute(sa.update(attempts).where(attempts.c.trial == 2).values(outcome="expired"))


def endless_attempt(c: Connection) -> None:
    c.execute(sa.update(attempts).where(attempts.c.trial == 1).values(outcome=None))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (delete_round, "not every round is there once"),
        (delete_round, "a gap in its rounds"),
        (second_finish, "not by one attempt"),
        (other_number, "not its last round's"),
        (end_of_a_running_attempt, "its attempt has ended"),
        (endless_attempt, "an attempt has no end"),
    ],
)
def test_each_kind_of_damage_is_named(
    worked: Engine, damage: Callable[[Connection], None], says: str
) -> None:
    """With the trial."""
    with transaction(worked) as c:
        damage(c)
    assert any(
        re.fullmatch(rf"trial [0-9a-f]{{20}}: .*{says}.*", fault)
        for fault in integrity.faults(worked)
    )


def test_the_command_says_sound_or_exits_1(worked: Engine) -> None:
    """A line for each fault."""
    url = worked.url.render_as_string(hide_password=False)
    assert at_once("db", "check", "--db", url).stdout == f"sound, schema {schema.head()}\n"
    with transaction(worked) as c:
        delete_round(c)
    assert "every round" in at_once("db", "check", "--db", url, code=1).stdout


def test_a_damaged_page_of_a_sqlite_file_is_found(sqlite_url: str, tiny: Path) -> None:
    """By SQLite's own check, or at its first use: one sentence, and no traceback."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    file = sqlite_file(make_url(sqlite_url))
    assert file is not None
    with sqlite3.connect(file) as c:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = c.execute("SELECT rootpage FROM sqlite_master WHERE name = 'attempts'").fetchone()
        (size,) = c.execute("PRAGMA page_size").fetchone()
    c.close()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(b"\xff" * size)
    said = at_once("db", "check", "--db", sqlite_url, code=2)
    assert said.stderr.count("\n") == 1
    assert "no sound SQLite database" in said.stderr
