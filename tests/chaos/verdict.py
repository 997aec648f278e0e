"""The checks at the end of a run. Each check returns the faults that it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos import plans
from tests.chaos.calm import Calm
from tests.chaos.command import run
from tests.chaos.stage import Stage
from tests.chaos.stores import query

Row = dict[str, Any]

NOT_MEASURED = {
    *("seconds", "attempts", "device", "error", "held", "priority"),
    *("inherited", "rounds_shared"),
}
"""Columns that may differ between two runs of the same trial."""
VERIFY_SECONDS = 600.0
VIEWS = {
    "results": ("trial_id",),
    "curves": ("trial_id", "round"),
    "clients": ("trial_id", "round", "client"),
}


@dataclass(frozen=True)
class Matter:
    """The objects of the checks."""

    stage: Stage
    calm: Calm
    trials: list[Row]
    attempts: list[Row]

    @property
    def url(self) -> str:
        return self.stage.store.url


def matter(stage: Stage, calm: Calm) -> Matter:
    return Matter(
        stage,
        calm,
        query(stage.store.url, "SELECT * FROM results ORDER BY trial_id"),
        query(stage.store.url, _ATTEMPTS),
    )


_ATTEMPTS = """
    SELECT t.trial_id, t.fence AS claims, a.* FROM attempts a JOIN trials t ON t.id = a.trial
    ORDER BY t.trial_id, a.fence
"""


def every_trial_is_there(m: Matter) -> list[str]:
    """No trial is missing, and none was planned twice after an outage."""
    planned = m.stage.copies * plans.TRIALS
    return [] if len(m.trials) == planned else [f"{len(m.trials)} trials, not {planned}"]


def every_trial_is_finished(m: Matter) -> list[str]:
    return [
        f"trial {row['trial_id']} is {row['state']} ({row['failure']}: {row['error']})"
        for row in m.trials
        if row["state"] != "finished"
    ]


def every_round_is_there_once(m: Matter) -> list[str]:
    stored: dict[str, list[int]] = {}
    for row in query(m.url, "SELECT trial_id, round FROM curves ORDER BY trial_id, round"):
        stored.setdefault(row["trial_id"], []).append(row["round"])
    return [
        f"trial {row['trial_id']} has {len(rounds)} rounds, the last is {max(rounds, default=0)}"
        for row in m.trials
        if (rounds := stored.get(row["trial_id"], [])) != list(range(1, row["rounds"] + 1))
    ]


def one_attempt_finished_each_trial(m: Matter) -> list[str]:
    finished = [row["trial_id"] for row in m.attempts if row["outcome"] == "finished"]
    return [
        f"trial {row['trial_id']} was finished by {finished.count(row['trial_id'])} attempts"
        for row in m.trials
        if finished.count(row["trial_id"]) != 1
    ]


def every_claim_left_one_attempt(m: Matter) -> list[str]:
    """The fences of a trial are 1, 2, 3 …: none is missing, and none was used twice."""
    fences: dict[str, list[int]] = {}
    for row in m.attempts:
        fences.setdefault(row["trial_id"], []).append(row["fence"])
    claims = {row["trial_id"]: row["claims"] for row in m.attempts}
    return [
        f"trial {trial} was claimed {claims[trial]} times and has attempts {attempts}"
        for trial, attempts in fences.items()
        if attempts != list(range(1, claims[trial] + 1))
    ]


def no_attempt_is_open(m: Matter) -> list[str]:
    return [
        f"attempt {row['fence']} of trial {row['trial_id']} has no outcome"
        for row in m.attempts
        if row["outcome"] is None
    ]


def rounds_add_up(m: Matter) -> list[str]:
    """Each stored round is new to one attempt or shared. Each trained round is new or lost."""
    faults = []
    for row in m.trials:
        attempts = [a for a in m.attempts if a["trial_id"] == row["trial_id"]]
        new = sum(a["rounds_new"] for a in attempts)
        trained = sum(a["rounds_trained"] for a in attempts)
        lost = sum(a["rounds_lost"] for a in attempts)
        if (new, trained) != (row["rounds"] - row["rounds_shared"], new + lost):
            faults.append(f"trial {row['trial_id']}: {trained} trained, {new} new, {lost} lost")
    return faults


def nothing_impossible_was_seen(m: Matter) -> list[str]:
    """A trial has one attempt at a time, and no attempt writes after its end."""
    return list(dict.fromkeys(m.stage.eye.faults))


def the_database_is_sound(m: Matter) -> list[str]:
    return m.stage.store.faults()


def numbers_equal_the_calm_run(m: Matter) -> list[str]:
    """Compare bit for bit. Workers and attempts may differ."""
    trials = {row["trial_id"] for row in m.trials}
    return [fault for view in VIEWS for fault in _differences(m, view, trials)]


def _differences(m: Matter, view: str, trials: set[str]) -> list[str]:
    stored, calm = _by_key(m.url, view), _by_key(m.calm.url, view)
    calm = {key: row for key, row in calm.items() if key[0] in trials}
    faults = [f"{view}: {key} is on one side only" for key in sorted(stored.keys() ^ calm.keys())]
    for key in sorted(stored.keys() & calm.keys()):
        chaotic, undisturbed = stored[key], calm[key]
        faults += [
            f"{view}: {key}: {column} is {chaotic.get(column)!r}, in the calm run {value!r}"
            for column, value in undisturbed.items()
            if column not in NOT_MEASURED and repr(chaotic.get(column)) != repr(value)
        ]
    return faults


def _by_key(url: str, view: str) -> dict[tuple[Any, ...], Row]:
    rows = query(url, f"SELECT * FROM {view}")
    return {tuple(row[name] for name in VIEWS[view]): row for row in rows}


def verify(m: Matter, some: list[Row]) -> tuple[int, list[str]]:
    """Train trials again. Return the number of equal ones, and the output for the others."""
    faults = []
    for row in some:
        call = ("verify", row["trial_id"], "--db", m.url)
        done = run(m.stage.folder, *call, seconds=VERIFY_SECONDS)
        if done.returncode:
            faults.append(f"trial {row['trial_id']}: {done.stdout}{done.stderr}".strip())
    return len(some) - len(faults), faults


Check = Callable[[Matter], list[str]]

CHECKS: list[Check] = [
    every_trial_is_there,
    every_trial_is_finished,
    every_round_is_there_once,
    one_attempt_finished_each_trial,
    every_claim_left_one_attempt,
    no_attempt_is_open,
    rounds_add_up,
    nothing_impossible_was_seen,
    numbers_equal_the_calm_run,
    the_database_is_sound,
]


def judge(m: Matter) -> dict[str, list[str]]:
    """Return the faults by check, without the checks that found none."""
    faults_by_check = {check.__name__.replace("_", " "): check(m) for check in CHECKS}
    return {name: faults for name, faults in faults_by_check.items() if faults}
