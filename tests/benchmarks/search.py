"""The search on a recorded grid, compared with Optuna's TPE: its result and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import optuna

from tests.benchmarks.figure import Figure
from tests.unit.search.replay import (
    LIMIT,
    ROUNDS,
    Outcome,
    Recorded,
    arms,
    plain_tpe,
    pruned,
    replay,
)

REPLAYS = 50
"""Replays of each of the four arms."""


def searches() -> Iterator[Figure]:
    """Replay each sampler 200 times. Regret is in points of validation accuracy."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways: dict[str, Callable[[Recorded, int], Outcome]] = {
        f"search, {name}": partial(replay, sampler=name) for name in ("tpe", "gp", "random")
    }
    ways["Optuna's TPE, nothing shared"] = plain_tpe
    for name, search in ways.items():
        outcomes = [search(arm, n) for arm in arms().values() for n in range(REPLAYS)]
        good = sum(outcome.regret <= outcome.allowed + 1e-12 for outcome in outcomes)
        target = "≥ 95" if name.startswith("search") else ""
        yield Figure(f"{name}: regret allowed", target, "% of 200", [100 * good / len(outcomes)])
        yield Figure(f"{name}: regret", "", "points", [100 * o.regret for o in outcomes])
        spent = [o.rounds_per_seed / (11 * ROUNDS) for o in outcomes]
        limit = f"≤ {100 * LIMIT / (11 * ROUNDS):.0f}" if name.startswith("search") else ""
        yield Figure(f"{name}: of 11 T a seed", limit, "%", [100 * share for share in spent])
    for rule in ("median", "wilcoxon"):
        cost = pruned(rule)
        yield Figure(f"prune = {rule}: probes given up", "", f"of {cost.probes}", [cost.given_up])
        yield Figure(f"prune = {rule}: winners among them", "0", "", [cost.winners])
        yield Figure(f"prune = {rule}: tails saved", "", "%", [100 * cost.rounds / cost.tails])


def parts() -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {"search": searches}
