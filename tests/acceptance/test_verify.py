"""`fedsweep verify`, as a user sees it."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, fedsweep, query
from tests.conftest import TINY

PLAN = TINY.partition("[[grid]]")[0] + '[[grid]]\nnormalizer = "bn"\n'


pytestmark = pytest.mark.usefixtures("walk")


def test_a_trial_is_equal_until_somebody_changes_a_bit_or_the_machine(tmp_path: Path) -> None:
    """Exit 0, 1, 2; nothing is written."""
    (tmp_path / "plan.toml").write_text(PLAN)
    file = tmp_path / "store.db"
    db = ("--db", f"sqlite:///{file}")
    at_once("plan", str(tmp_path / "plan.toml"), *db)
    ((trial,),) = query(db[1], "SELECT trial_id FROM results")
    refused = fedsweep("verify", trial, *db, code=2).stderr
    assert f"trial {trial} is queued and has no stored rounds" in refused

    fedsweep("work", *db, "--device", "cpu", "--threads", "2", "--until-empty")
    said = fedsweep("verify", trial[:8], *db).stdout
    assert f"trial {trial}: 3 rounds again on cpu (" in said
    assert "), 2 threads; they took " in said
    assert "\nequal: 3 rounds, bit for bit, in " in said

    with sqlite3.connect(file) as connection:
        find = "SELECT test_loss FROM rounds WHERE round = 2"
        ((loss,),) = connection.execute(find).fetchall()
        near = math.nextafter(loss, 9.0)
        connection.execute("UPDATE rounds SET test_loss = ? WHERE round = 2", (near,))
    said = fedsweep("verify", trial, *db, code=1).stdout
    assert f"differs: round 2, test_loss: stored {near!r}, again {loss!r}, in " in said
    assert "equal: 1 round, bit for bit" in fedsweep("verify", trial, "--rounds", "1", *db).stdout

    with sqlite3.connect(file) as connection:
        ((numerics,),) = connection.execute("SELECT numerics FROM attempts").fetchall()
        there = json.dumps(json.loads(numerics) | {"engine": "walk/0"})
        connection.execute("UPDATE attempts SET numerics = ?", (there,))
    refused = fedsweep("verify", trial, *db, code=2).stderr
    assert f"trial {trial} cannot be compared here bit by bit: engine is walk/1" in refused
    assert " here and was walk/0: verify it where they agree" in refused
    said = fedsweep("verify", trial, "--tolerance", "1e-9", *db).stdout
    assert said.startswith("not bit by bit: engine is ")
    assert (
        f"equal: 3 rounds, within 1e-09 (farthest: test_loss of round 2, by {near - loss:.3g})"
        in said
    )
    assert query(db[1], "SELECT count(*) FROM attempts") == [(1,)]
