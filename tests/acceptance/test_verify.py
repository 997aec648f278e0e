"""`fedsweep verify`, as a user sees it."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, fedsweep, query
from tests.builders import TINY
from tests.shared import made_once

PLAN = TINY.partition("[[grid]]")[0] + '[[grid]]\nnormalizer = "bn"\n'


pytestmark = pytest.mark.usefixtures("walk")


@dataclass
class Trained:
    """A store with one finished trial of three rounds."""

    file: Path

    @property
    def db(self) -> tuple[str, str]:
        return "--db", f"sqlite:///{self.file}"

    @property
    def trial(self) -> str:
        ((trial,),) = query(self.db[1], "SELECT trial_id FROM results")
        return str(trial)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            yield connection

    def change_one_bit(self) -> tuple[float, float]:
        """Store the next float for the test loss of round 2; return both."""
        with self.connection() as c:
            ((loss,),) = c.execute("SELECT test_loss FROM rounds WHERE round = 2").fetchall()
            near = math.nextafter(loss, 9.0)
            c.execute("UPDATE rounds SET test_loss = ? WHERE round = 2", (near,))
        return loss, near

    def change_engine(self) -> None:
        """Let the attempt have used another version of the engine."""
        with self.connection() as c:
            ((numerics,),) = c.execute("SELECT numerics FROM attempts").fetchall()
            other = json.dumps(json.loads(numerics) | {"engine": "walk/0"})
            c.execute("UPDATE attempts SET numerics = ?", (other,))


def train(folder: Path) -> None:
    (folder / "plan.toml").write_text(PLAN)
    db = ("--db", f"sqlite:///{folder}/store.db")
    at_once("plan", str(folder / "plan.toml"), *db)
    at_once("work", *db, "--device", "cpu", "--threads", "2", "--until-empty")


@pytest.fixture
def trained(walk: None, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Trained:
    """A copy of the store: each test may change it."""
    folder = made_once(tmp_path_factory, "verify", train)
    shutil.copytree(folder, tmp_path / "copy")
    return Trained(tmp_path / "copy" / "store.db")


def test_a_queued_trial_is_refused(tmp_path: Path) -> None:
    """It has no rounds to compare."""
    (tmp_path / "plan.toml").write_text(PLAN)
    db = ("--db", f"sqlite:///{tmp_path}/store.db")
    at_once("plan", str(tmp_path / "plan.toml"), *db)
    ((trial,),) = query(db[1], "SELECT trial_id FROM results")
    message = at_once("verify", trial, *db, code=2).stderr
    assert f"trial {trial} is queued and has no stored rounds" in message


def test_an_undisturbed_trial_is_equal_bit_for_bit(trained: Trained) -> None:
    """With the number of threads that the attempt used. Nothing is written."""
    text = fedsweep("verify", trained.trial[:8], *trained.db).stdout
    assert f"trial {trained.trial}: 3 rounds again on cpu (" in text
    assert "), 2 threads; they took " in text
    assert "\nequal: 3 rounds, bit for bit, in " in text
    assert query(trained.db[1], "SELECT count(*) FROM attempts") == [(1,)]


def test_a_changed_bit_is_a_difference(trained: Trained) -> None:
    """The exit code is 1; the round, the measure and both values are named."""
    loss, near = trained.change_one_bit()
    text = at_once("verify", trained.trial, *trained.db, code=1).stdout
    assert f"differs: round 2, test_loss: stored {near!r}, again {loss!r}, in " in text


def test_rounds_before_a_difference_are_equal(trained: Trained) -> None:
    """`--rounds` compares only the first ones."""
    trained.change_one_bit()
    text = at_once("verify", trained.trial, "--rounds", "1", *trained.db).stdout
    assert "equal: 1 round, bit for bit" in text


def test_a_trial_of_another_engine_is_not_compared_bit_by_bit(trained: Trained) -> None:
    """The exit code is 2; the difference between the machines is named."""
    trained.change_engine()
    message = at_once("verify", trained.trial, *trained.db, code=2).stderr
    assert f"trial {trained.trial} cannot be compared here bit by bit: engine is " in message
    assert " here and was walk/0: verify it where they agree" in message


def test_a_trial_of_another_engine_is_compared_with_a_tolerance(trained: Trained) -> None:
    """The farthest value is named. Nothing is written."""
    loss, near = trained.change_one_bit()
    trained.change_engine()
    text = at_once("verify", trained.trial, "--tolerance", "1e-9", *trained.db).stdout
    assert text.startswith("not bit by bit: engine is ")
    farthest = f"(farthest: test_loss of round 2, by {near - loss:.3g})"
    assert f"equal: 3 rounds, within 1e-09 {farthest}" in text
    assert query(trained.db[1], "SELECT count(*) FROM attempts") == [(1,)]
