"""`fedsweep db copy` and `fedsweep db merge`, as a user starts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import transaction
from tests.acceptance.command import (
    CURVES,
    PATIENCE,
    RESULTS,
    at_once,
    eventually,
    query,
    start,
)
from tests.walk import slow_down, speed_up

pytestmark = pytest.mark.usefixtures("walk")


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URLs of FROM and TO. Neither database exists, or it has no tables."""
    kinds = {
        "sqlite": f"sqlite:///{tmp_path / 'own.db'}",
        "postgres": str(request.getfixturevalue("empty_postgres")),
    }
    one, other = request.param.split("-")
    return kinds[one], kinds[other]


@pytest.mark.slow
def test_a_copy_of_a_sweep_at_work_is_sound_and_comes_to_the_same_end(
    urls: tuple[str, str], tiny: Path
) -> None:
    """Workers finish the trials of FROM and of the copy, with equal results bit for bit."""
    source, target = urls
    at_once("plan", str(tiny), "--set", "rounds=30", "--db", source)
    slowly = slow_down(tiny.parent)
    worker = start("work", "--db", source, "--device", "cpu", "--until-empty", **slowly)
    try:
        eventually(lambda: query(source, "SELECT 1 FROM results WHERE state = 'finished'"))
        eventually(lambda: query(source, "SELECT 1 FROM results WHERE state = 'running'"))
        output = at_once("db", "copy", source, target).stdout
        speed_up(tiny.parent)
        assert worker.wait(PATIENCE) == 0, worker.communicate()
    finally:
        worker.kill()
        worker.communicate()
    tables = {
        line.split()[1]: line.split()[3:6:2] for line in output.splitlines() if "agrees" in line
    }
    assert tables["trials"] == ["6", "agrees"]
    assert tables["rounds"] == [f"{query(target, 'SELECT count(*) FROM curves')[0][0]:,}", "agrees"]
    assert "sound" in at_once("db", "check", "--db", target).stdout
    states = {state for (state,) in query(target, "SELECT state FROM results")}
    assert "finished" in states
    assert "running" not in states
    at_once("work", "--db", target, "--device", "cpu", "--until-empty")
    for text in (RESULTS, CURVES):
        assert query(target, text) == query(source, text)


@pytest.mark.quick_on("postgres-sqlite")
def test_halves_that_two_machines_trained_merge_into_the_whole(
    urls: tuple[str, str], tiny: Path, tmp_path: Path
) -> None:
    """A second merge adds nothing. The whole can be planned again and reported."""
    source, target = urls
    whole = f"sqlite:///{tmp_path / 'whole.db'}"
    for url, seeds in ((source, ["seed=0"]), (target, ["seed=1"]), (whole, [])):
        at_once("plan", str(tiny), *[word for s in seeds for word in ("--set", s)], "--db", url)
        at_once("work", "--db", url, "--device", "cpu", "--until-empty")
    first = at_once("db", "merge", source, target).stdout
    assert first == "3 trials added, 0 taken over, 0 kept; 9 rounds added\n"
    again = at_once("db", "merge", source, target).stdout
    assert again == "0 trials added, 0 taken over, 3 kept; 0 rounds added\n"
    for text in (RESULTS, CURVES, "SELECT * FROM members ORDER BY trial_id"):
        assert query(target, text) == query(whole, text)
    assert "sound" in at_once("db", "check", "--db", target).stdout
    assert "0 new trials, 6 kept" in at_once("plan", str(tiny), "--db", target).stdout


def test_unequal_rounds_are_named_and_nothing_is_merged(tiny: Path, tmp_path: Path) -> None:
    """It exits with 2 and one sentence."""
    one, other = (f"sqlite:///{tmp_path / name}.db" for name in ("one", "other"))
    for url in (one, other):
        at_once("plan", str(tiny), "--set", "normalizer=gn", "--set", "seed=0", "--db", url)
    at_once("work", "--db", one, "--device", "cpu", "--until-empty")
    at_once("db", "merge", one, other)
    before = query(other, CURVES)
    change(one, "UPDATE rounds SET test_loss = test_loss + 0.25 WHERE round = 2")
    output = at_once("db", "merge", one, other, code=2).stderr
    trial_id, loss = before[1][0], before[1][4]
    assert f"trial {trial_id} differs in round 2: test_loss is {loss + 0.25}" in output
    assert output.count("\n") == 1
    assert query(other, CURVES) == before


def change(url: str, statement: str) -> None:
    engine = make_engine(url)
    with transaction(engine) as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def test_a_wrong_request_says_what_to_do_and_makes_nothing(
    sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """FROM is missing, TO is not empty, both are the same, or a URL has a password."""
    missing, to = f"sqlite:///{tmp_path}/missing.db", f"sqlite:///{tmp_path}/to.db"
    at_once("plan", str(tiny), "--db", sqlite_url)

    def refused(*arguments: str) -> str:
        output = at_once("db", *arguments, code=2).stderr
        assert output.count("\n") == 1, output
        assert not (tmp_path / "to.db").exists()
        assert not (tmp_path / "missing.db").exists()
        return output

    assert "there is no database" in refused("copy", missing, to)
    assert "there is no database" in refused("merge", sqlite_url, missing)
    assert "write sqlite:///fedsweep.db or" in refused("copy", "fedsweep.db", to)
    assert "the same" in refused("merge", sqlite_url, sqlite_url)
    other = f"sqlite:///{tmp_path}/other.db"
    at_once("plan", str(tiny), "--db", other)
    assert "TO is not empty" in refused("copy", sqlite_url, other)
    output = refused("copy", "postgresql://me:secret@127.0.0.1:1/x", to)
    assert "FROM" in output
    assert "secret" not in output


def test_a_trial_whose_worker_died_is_no_obstacle_to_a_merge(tiny: Path, tmp_path: Path) -> None:
    """Its lease has expired, so the merge queues it as a worker would."""
    one, other = (f"sqlite:///{tmp_path / name}.db" for name in ("one", "other"))
    for url in (one, other):
        at_once("plan", str(tiny), "--db", url)
    at_once("work", "--db", one, "--device", "cpu", "--until-empty")
    change(
        other,
        "UPDATE trials SET state = 'running', fence = 1, lease_until = 1, clock = 'an earlier boot'"
        " WHERE id = 1",
    )
    change(
        other,
        "INSERT INTO attempts (trial, fence, worker, host, pid, device, started_at) "
        "VALUES (1, 1, 'w', 'h', 1, 'cpu', 1)",
    )
    output = at_once("db", "merge", one, other).stdout
    assert output == "0 trials added, 6 taken over, 0 kept; 18 rounds added\n"
    assert "sound" in at_once("db", "check", "--db", other).stdout
