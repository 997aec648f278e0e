"""Searches replayed on a recorded grid: the values of its trials are looked up."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedsweep.search import AddSeed, Probe, Space, Stop, Try, estimate, propose
from fedsweep.search.pruning import ProbeCurves, hopeless_probes

SEEDS = 3
"""The seeds of a replay, sampled from the five recorded ones."""

Recorded = Mapping[int, Mapping[int, float]]
"""The final validation accuracy of an arm, by T* and seed."""


@dataclass(frozen=True)
class Recording:
    """A recorded grid over eleven T*, with five seeds of each. `recorded_NAME.toml` is its plan."""

    name: str
    rounds: int
    evaluate_every: int = 1

    @property
    def step(self) -> int:
        """The rounds from one T* to the next."""
        return self.rounds // 10

    @property
    def limit(self) -> int:
        """Rounds per seed: a third of those of the grid."""
        return 11 * self.rounds // 3

    @property
    def first(self) -> tuple[int, int, int]:
        """The T* that a search tries first."""
        return self.rounds, self.rounds // 2, 4 * self.rounds // 5

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The trials with their accuracies by evaluated round."""
        file = Path(__file__).with_name(f"recorded_{self.name}.json.gz")
        rows: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))
        return [row for row in rows if row["normalizer"] == "fixbn"]

    @cached_property
    def arms(self) -> dict[tuple[float, int], Recorded]:
        """The recorded arms by alpha and E."""
        by_arm: dict[tuple[float, int], dict[int, dict[int, float]]] = {}
        for row in self.rows:
            arm = by_arm.setdefault((row["alpha"], row["local_steps"]), {})
            values = arm.setdefault(row["freeze_round"], {})
            values[row["seed"]] = row["validation_accuracy"][-1]
        return by_arm

    @cached_property
    def curves(self) -> dict[tuple[float, int, int, int], dict[int, float]]:
        """The validation accuracy by round, by alpha, E, T* and seed."""
        return {
            (row["alpha"], row["local_steps"], row["freeze_round"], row["seed"]): {
                self.evaluate_every * number: value
                for number, value in enumerate(row["validation_accuracy"], 1)
            }
            for row in self.rows
        }


DIGITS = Recording("digits", rounds=40)
CIFAR10 = Recording("cifar10", rounds=300, evaluate_every=30)
RECORDINGS = (DIGITS, CIFAR10)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a replay."""

    freeze_round: int
    regret: float
    """The regret of the best T* it found, on the recorded mean over all seeds."""
    allowed: float
    """The largest allowed regret.

    One limit is the gap between the best T* and its better neighbor. The other is one standard
    error of the paired difference between the best T* and this one. The larger limit counts.
    """
    rounds_per_seed: float
    probes: int
    ended: str


def judged(recorded: Recorded, freeze_round: int) -> tuple[float, float]:
    """Return the regret of a T*, and the largest allowed regret."""
    means = {point: float(np.mean(list(row.values()))) for point, row in recorded.items()}
    points = sorted(means)
    best = max(points, key=lambda point: means[point])
    place = points.index(best)
    neighbors = [points[n] for n in (place - 1, place + 1) if 0 <= n < len(points)]
    gap = min(means[best] - means[point] for point in neighbors)
    differences = [recorded[best][s] - recorded[freeze_round][s] for s in recorded[best]]
    error = float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    return means[best] - means[freeze_round], max(gap, error)


def replay(
    recording: Recording,
    recorded: Recorded,
    number: int,
    sampler: str = "tpe",
    **settings: Any,
) -> Outcome:
    """Run a search of an arm on a sample of its recorded seeds to its end."""
    seeds = sorted(random.Random(number).sample(sorted(recorded[0]), SEEDS))
    space = Space(
        low=0,
        high=recording.rounds,
        step=recording.step,
        rounds=recording.rounds,
        seeds=tuple(seeds),
        **{"probes": 12, "rounds_per_seed": recording.limit, "sampler": sampler, **settings},
    )
    history: list[Probe] = []
    while not isinstance(choice := propose(space, history, 1000 * number + len(history)), Stop):
        history = extended(recorded, history, choice, seeds)
    result = estimate(space, history)
    assert result.freeze_round is not None
    regret, allowed = judged(recorded, result.freeze_round)
    spent = result.spent / len(seeds)
    return Outcome(result.freeze_round, regret, allowed, spent, len(history), choice.reason)


def extended(
    recorded: Recorded, history: list[Probe], choice: object, seeds: Sequence[int]
) -> list[Probe]:
    """Return the history after a choice. The values of its trials are looked up."""
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


def plain_tpe(recording: Recording, recorded: Recorded, number: int) -> Outcome:
    """Run Optuna's TPE with default settings. Without shared trunks, a try costs T per seed."""
    import optuna

    seeds = sorted(random.Random(number).sample(sorted(recorded[0]), SEEDS))
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=number)
    )

    def mean(trial: optuna.Trial) -> float:
        point = trial.suggest_int("freeze_round", 0, recording.rounds, step=recording.step)
        return float(np.mean([recorded[point][s] for s in seeds]))

    tries = recording.limit // recording.rounds
    study.optimize(mean, n_trials=tries)
    best = study.best_params["freeze_round"]
    regret, allowed = judged(recorded, best)
    return Outcome(best, regret, allowed, float(tries * recording.rounds), tries, "budget")


@dataclass(frozen=True)
class Pruned:
    """The effect of a pruning rule on recorded probes."""

    probes: int
    given_up: int
    winners: int
    """The number of pruned probes that were better than all finished ones.

    They are better on the recorded mean by more than a standard error of the paired difference.
    """
    rounds: int
    """The rounds of their tails that the rule would have saved."""
    tails: int


def pruned(recording: Recording, rule: str, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Pruned:
    """Apply a rule to each probe of each arm, after the first three probes have finished."""
    last, begun = recording.rounds, recording.first
    probes = given_up = winners = saved = tails = 0
    for (alpha, steps), arm in recording.arms.items():

        def probe_curves(
            point: int, until: int, running: bool, at: tuple[float, int] = (alpha, steps)
        ) -> ProbeCurves:
            by_seed = {
                seed: {n: v for n, v in recording.curves[(*at, point, seed)].items() if n <= until}
                for seed in seeds
            }
            return ProbeCurves(point, by_seed, running)

        first = [probe_curves(point, last, running=False) for point in begun]
        for point in sorted(set(arm) - set(begun)):
            probes, tails = probes + 1, tails + last - point
            for until in range(point + recording.evaluate_every, last, recording.evaluate_every):
                if hopeless_probes(rule, last, [*first, probe_curves(point, until, running=True)]):
                    given_up, saved = given_up + 1, saved + last - until
                    best = max(begun, key=lambda t: sum(arm[t].values()))
                    differences = [arm[point][s] - arm[best][s] for s in arm[point]]
                    error = float(np.std(differences, ddof=1)) / len(differences) ** 0.5
                    winners += float(np.mean(differences)) > error
                    break
    return Pruned(probes, given_up, winners, saved, tails)
