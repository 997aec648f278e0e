"""The search on a recorded grid, compared with Optuna's TPE: its result and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import optuna

from tests.benchmarks.figure import Figure
from tests.unit.search.replay import (
    RECORDINGS,
    Outcome,
    Recorded,
    Recording,
    plain_tpe,
    pruned,
    replay,
)

REPLAYS = 200
"""Replays of each recording, the same number for each of its arms."""


def searches(recording: Recording) -> Iterator[Figure]:
    """Replay each sampler on a recording. Regret is in points of validation accuracy."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways: dict[str, Callable[[Recording, Recorded, int], Outcome]] = {
        f"search, {name}": partial(replay, sampler=name) for name in ("tpe", "gp", "random")
    }
    ways["Optuna's TPE, nothing shared"] = plain_tpe
    grid, limit = 11 * recording.rounds, recording.limit
    arms = recording.arms.values()
    for way, search in ways.items():
        name = f"{recording.name}: {way}"
        outcomes = [search(recording, arm, n) for arm in arms for n in range(REPLAYS // len(arms))]
        good = sum(outcome.regret <= outcome.allowed + 1e-12 for outcome in outcomes)
        target = "≥ 95" if way.startswith("search") else ""
        yield Figure(
            f"{name}: regret allowed", target, f"% of {len(outcomes)}", [100 * good / len(outcomes)]
        )
        yield Figure(f"{name}: regret", "", "points", [100 * o.regret for o in outcomes])
        spent = [o.rounds_per_seed / grid for o in outcomes]
        most = f"≤ {100 * limit / grid:.0f}" if way.startswith("search") else ""
        yield Figure(f"{name}: of 11 T a seed", most, "%", [100 * share for share in spent])
    for rule in ("median", "wilcoxon"):
        cost, name = pruned(recording, rule), f"{recording.name}: prune = {rule}"
        yield Figure(f"{name}: probes given up", "", f"of {cost.probes}", [cost.given_up])
        yield Figure(f"{name}: winners among them", "0", "", [cost.winners])
        yield Figure(f"{name}: tails saved", "", "%", [100 * cost.rounds / cost.tails])


def parts() -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {f"search-{one.name}": partial(searches, one) for one in RECORDINGS}
