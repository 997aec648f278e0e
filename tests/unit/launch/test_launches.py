"""Launches in the database, without a scheduler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from fedsweep import provenance, words
from fedsweep.errors import NotFound, RequestError
from fedsweep.launch import launches, scheduler
from fedsweep.launch.scheduler import Job
from fedsweep.serve import presentation
from fedsweep.store import launches as rows
from fedsweep.store import schema
from fedsweep.store.launches import Launch
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer.copy import copy_store
from tests.study import fill

ENDED = Job("7_1", "ended")
RUNNING = Job("7_0", "running", node="n1")


class Made:
    """A scheduler whose jobs end when they are asked to, or only when they are canceled."""

    def __init__(self, jobs: list[Job], *, stubborn: bool = False) -> None:
        self.told = jobs
        self.stubborn = stubborn
        self.calls: list[str] = []

    def jobs(self, launch: Launch) -> list[Job]:
        return self.told

    def logs(self, launch: Launch) -> Mapping[str, list[Path]]:
        folder = Path(launch.folder)
        return {job.id: [folder / f"{job.id}.out"] for job in self.told}

    def stop(self, launch: Launch) -> None:
        self.calls.append("stop")
        if not self.stubborn:
            self.told = [ENDED]

    def cancel(self, launch: Launch) -> None:
        self.calls.append("cancel")
        self.told = [ENDED]


def made(id: str, **changes: Any) -> Launch:
    values: dict[str, Any] = {
        "kind": "slurm", "sweep": None, "at": 1.0, "person": "me", "host": "login",
        "folder": "/shared/launches", "workers": 2, "request": {"cpus": 1}, "jobs": ("7_0", "7_1"),
    }  # fmt: skip
    return Launch(id=id, **values | changes)


def stored(store: Engine, *several: Launch) -> None:
    with transaction(store) as c:
        for launch in several:
            rows.add(c, launch)


def use(patch: pytest.MonkeyPatch, its: Made) -> Made:
    patch.setattr(scheduler, "find", lambda _kind: its)
    return its


def test_a_launch_is_read_as_it_was_stored(store: Engine) -> None:
    """The newest comes first, and the first letters of an id find it."""
    early, late = made("aa11bb22"), made("ab11bb22", at=2.0, sweep="study", kind="ray")
    stored(store, early, late)
    with reading(store) as c:
        assert rows.every(c) == [late, early]
        assert rows.find(c, "ab") == late
        with pytest.raises(NotFound, match="several launches 'a'"):
            rows.find(c, "a")
        with pytest.raises(NotFound, match="no launch 'ff'"):
            rows.find(c, "ff")


def test_without_a_launch_the_command_is_named(store: Engine) -> None:
    """Nothing was launched yet: the message says how."""
    with reading(store) as c, pytest.raises(NotFound, match="fedsweep launch --help"):
        rows.find(c, "aa")


def test_trials_left_count_those_that_a_worker_may_train(store: Engine, tmp_path: Path) -> None:
    """Finished and failed ones do not count, nor those of another sweep."""
    fill(store, tmp_path)
    assert launches.trials_left(store, None) == 0
    with pytest.raises(NotFound, match="there is no sweep 'other'"):
        launches.trials_left(store, "other")


def test_a_scheduler_that_does_not_answer_hides_no_launch(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is told with the launch."""

    def refuse(_kind: str) -> Made:
        raise RequestError("Slurm does not answer")

    monkeypatch.setattr(scheduler, "find", refuse)
    stored(store, made("aa11bb22"))
    (one,) = launches.known(store)
    assert (one.jobs, one.error) == ((), "Slurm does not answer")


def test_stop_lets_workers_end_before_it_cancels(
    store: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Jobs that end by themselves are not canceled. Others are, when the time is over."""
    shown: list[dict[str, int]] = []
    its = use(monkeypatch, Made([RUNNING]))
    launch = made("aa11bb22", folder=str(tmp_path))
    (tmp_path / "environment.json").write_text("{}")
    stored(store, launch)
    assert launches.stop(store, launch, 5.0, lambda known: shown.append(known.states))
    assert its.calls == ["stop"]
    assert not (tmp_path / "environment.json").exists()
    with reading(store) as c:
        assert rows.is_stopped(c, launch.id)

    its = use(monkeypatch, Made([RUNNING], stubborn=True))
    assert not launches.stop(store, launch, 0.0, lambda known: shown.append(known.states))
    assert its.calls == ["stop", "cancel"]

    its = use(monkeypatch, Made([RUNNING]))
    assert not launches.stop(store, launch, 5.0, lambda known: shown.append({}), now=True)
    assert its.calls == ["cancel"]


def test_the_last_lines_of_each_log_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each with its job; a job without a log is refused by its name."""
    use(monkeypatch, Made([RUNNING, ENDED]))
    launch = made("aa11bb22", folder=str(tmp_path))
    (tmp_path / "7_0.out").write_text("one\ntwo\nthree\n")
    (tmp_path / "7_1.out").write_text("four\n")
    assert list(launches.log_lines(launch, None, 2)) == [
        ("7_0", "two"),
        ("7_0", "three"),
        ("7_1", "four"),
    ]
    assert list(launches.log_lines(launch, "7_1", 9)) == [("7_1", "four")]
    with pytest.raises(RequestError, match="no log of job 9: there are 7_0, 7_1"):
        list(launches.log_lines(launch, "9", 2))


def test_an_attempt_leads_to_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its provenance has the launch, which `trial show` and the page's workers name."""
    named = {"id": "aa11bb22", "kind": "slurm", "job": "7_0", "log": "/shared/7_0.out"}
    monkeypatch.setenv(provenance.LAUNCH, json.dumps(named))
    ran_with = provenance.provenance("a processor", "cpu", 2**30)
    assert ran_with["launch"] == named
    attempt = {"provenance": json.dumps(ran_with), "numerics": None}
    assert "launch aa11bb22, job 7_0 of slurm: log /shared/7_0.out" in words.ran_with(attempt)
    work = {
        "worker": "w", "host": "n1", "device": "cpu", "pid": 1, "memory": None,
        "started_at": 9_900.0, "seconds_trained": 50.0, "lease_left": 5.0, **attempt,
    }  # fmt: skip
    (shown,) = presentation.workers([work], [], 10_000.0)
    assert shown.launch == named
    assert rows.training([work, {"provenance": None}]) == {"aa11bb22": 1}


def test_a_worker_that_a_person_starts_has_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither has an attempt of an older version."""
    monkeypatch.delenv(provenance.LAUNCH, raising=False)
    ran_with = provenance.provenance("a processor", "cpu", 2**30)
    assert ran_with["launch"] is None
    lines = list(words.ran_with({"provenance": json.dumps(ran_with), "numerics": None}))
    assert not [line for line in lines if "launch" in line]


def test_a_copy_takes_no_launches_along(store: Engine, tmp_path: Path) -> None:
    """Their jobs write into the database that they were launched from."""
    stored(store, made("aa11bb22"))
    other = schema.open_store(f"sqlite:///{tmp_path}/copy.db", create=True)
    copy_store(store, other)
    with reading(other) as c:
        assert rows.every(c) == []
    other.dispose()
