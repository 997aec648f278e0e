"""Searches replayed on a recorded grid: what a search would have asked for is looked up."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedsweep.search import AddSeed, Probe, Space, Stop, Try, answer, propose
from fedsweep.search.pruning import ProbeCurves, hopeless_probes

ROUNDS = 40
STEP = 4
SEEDS = 3
"""Of a replay, drawn from the five recorded ones: the noise over seeds."""
LIMIT = 11 * ROUNDS // 3
"""Rounds a seed: a third of what a grid over the eleven T* takes."""

Recorded = Mapping[int, Mapping[int, float]]
"""The final validation accuracy by T* and seed."""


@cache
def _rows() -> list[dict[str, Any]]:
    """The recorded trials, with their accuracies by round; see recorded_digits.toml."""
    file = Path(__file__).with_name("recorded_digits.json.gz")
    found: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))
    return found


def arms() -> dict[tuple[float, int], Recorded]:
    """The recorded arms, by alpha and E."""
    found: dict[tuple[float, int], dict[int, dict[int, float]]] = {}
    for row in _rows():
        if row["normalizer"] == "fixbn":
            arm = found.setdefault((row["alpha"], row["local_steps"]), {})
            values = arm.setdefault(row["freeze_round"], {})
            values[row["seed"]] = row["validation_accuracy"][-1]
    return found


def curves(metric: str = "validation_accuracy") -> dict[tuple[float, int, int, int], list[float]]:
    """A measure by round of each fixbn trial, by alpha, E, T* and seed."""
    return {
        (row["alpha"], row["local_steps"], row["freeze_round"], row["seed"]): row[metric]
        for row in _rows()
        if row["normalizer"] == "fixbn"
    }


@dataclass(frozen=True)
class Outcome:
    """How a replay went."""

    freeze_round: int
    regret: float
    """Of the T* it proposes, on the recorded mean over all seeds."""
    allowed: float
    """The larger of the best's gap to its nearer neighbour, and one standard error of the paired
    difference of the two."""
    rounds_per_seed: float
    probes: int
    ended: str


def judged(recorded: Recorded, freeze_round: int) -> tuple[float, float]:
    """The regret of a T*, and what is allowed."""
    means = {point: float(np.mean(list(row.values()))) for point, row in recorded.items()}
    points = sorted(means)
    best = max(points, key=lambda point: means[point])
    place = points.index(best)
    beside = [points[n] for n in (place - 1, place + 1) if 0 <= n < len(points)]
    gap = min(means[best] - means[point] for point in beside)
    apart = [recorded[best][s] - recorded[freeze_round][s] for s in recorded[best]]
    error = float(np.std(apart, ddof=1)) / len(apart) ** 0.5
    return means[best] - means[freeze_round], max(gap, error)


def replay(recorded: Recorded, number: int, sampler: str = "tpe", **settings: Any) -> Outcome:
    """One search, on some of the recorded seeds, to its end."""
    seeds = sorted(random.Random(number).sample(sorted(recorded[0]), SEEDS))
    space = Space(
        low=0,
        high=ROUNDS,
        step=STEP,
        rounds=ROUNDS,
        seeds=tuple(seeds),
        **{"probes": 12, "rounds_per_seed": LIMIT, "sampler": sampler, **settings},
    )
    history: list[Probe] = []
    while not isinstance(choice := propose(space, history, 1000 * number + len(history)), Stop):
        history = extended(recorded, history, choice, seeds)
    found = answer(space, history)
    assert found.freeze_round is not None
    regret, allowed = judged(recorded, found.freeze_round)
    spent = found.spent / len(seeds)
    return Outcome(found.freeze_round, regret, allowed, spent, len(history), choice.reason)


def extended(
    recorded: Recorded, history: list[Probe], choice: object, seeds: Sequence[int]
) -> list[Probe]:
    """The history after a choice: its trials are looked up."""
    if isinstance(choice, Try):
        point = choice.freeze_round
        return [*history, Probe(point, {s: recorded[point][s] for s in seeds})]
    assert isinstance(choice, AddSeed)
    used = {seed for probe in history for seed in probe.values}
    other = min(seed for seed in recorded[0] if seed not in used)
    return [
        replace(p, values={**p.values, other: recorded[p.freeze_round][other]})
        if p.freeze_round in choice.freeze_rounds
        else p
        for p in history
    ]


def plain_tpe(recorded: Recorded, number: int) -> Outcome:
    """Optuna's own TPE, of default settings, without shared trunks: each try costs T a seed."""
    import optuna

    seeds = sorted(random.Random(number).sample(sorted(recorded[0]), SEEDS))
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=number)
    )

    def mean(trial: optuna.Trial) -> float:
        point = trial.suggest_int("freeze_round", 0, ROUNDS, step=STEP)
        return float(np.mean([recorded[point][s] for s in seeds]))

    tries = LIMIT // ROUNDS
    study.optimize(mean, n_trials=tries)
    found = study.best_params["freeze_round"]
    regret, allowed = judged(recorded, found)
    return Outcome(found, regret, allowed, float(tries * ROUNDS), tries, "budget")


@dataclass(frozen=True)
class Pruned:
    """What a pruning rule would have done to recorded probes."""

    probes: int
    given_up: int
    winners: int
    """Of these, how many were better than all that were kept, on the recorded mean, by more than
    a standard error of the paired difference: what the rule costs."""
    rounds: int
    """Of their tails that it would have saved."""
    tails: int


def pruned(rule: str, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Pruned:
    """Each probe of each arm, beside the three that a search tries first, which have finished."""
    recorded, all_curves = arms(), curves()
    probes = given_up = winners = saved = tails = 0
    for (alpha, steps), arm in recorded.items():

        def progress(
            point: int, until: int, running: bool, at: tuple[float, int] = (alpha, steps)
        ) -> ProbeCurves:
            some = {s: dict(enumerate(all_curves[(*at, point, s)][:until], 1)) for s in seeds}
            return ProbeCurves(point, some, running)

        first = [progress(point, ROUNDS, running=False) for point in (40, 20, 32)]
        for point in sorted(set(arm) - {40, 20, 32}):
            probes, tails = probes + 1, tails + ROUNDS - point
            for until in range(point + 1, ROUNDS):
                if hopeless_probes(rule, ROUNDS, [*first, progress(point, until, running=True)]):
                    given_up, saved = given_up + 1, saved + ROUNDS - until
                    best = max((40, 20, 32), key=lambda t: sum(arm[t].values()))
                    apart = [arm[point][s] - arm[best][s] for s in arm[point]]
                    error = float(np.std(apart, ddof=1)) / len(apart) ** 0.5
                    winners += float(np.mean(apart)) > error
                    break
    return Pruned(probes, given_up, winners, saved, tails)
