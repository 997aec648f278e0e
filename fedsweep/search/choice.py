"""The choice of what to try next: a pure function of the history of an arm, and a seed.

An arm is a cell without T*. Its value at T* is the mean of the metric over seeds. Trials of the
same seed share partition, cohorts and batches at every T*. So the level b of each seed s is removed
first: y[s, t] = f[t] + b[s] + e. Only e is noise.

The cost of a search is counted in rounds. For each seed, a probe at T* costs the T - T* rounds of
its tail. It also costs the rounds of the trunk up to T* that are not trained yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsweep.search.surrogate import Belief, believe

if TYPE_CHECKING:
    import optuna

CANDIDATES = 8
"""The number of points that the sampler proposes. The one with the most gain per round is tried."""
FIRST_FRACTIONS = (1.0, 0.5, 0.75)
"""The fractions of T that are tried first.

T* = T is BN to the end, which is the trunk of all others. After it, the other two cost little.
"""
LEAST_CHANCE = 0.05
"""The search is settled if the chance that any T* left gains more than the noise is smaller."""
SAMPLED_FUNCTIONS = 2000
"""The number of functions that are sampled from the surrogate, for its maximum."""
INTERVAL_PROBABILITY = 0.9
"""The probability of the interval of the best T*."""


@dataclass(frozen=True)
class Space:
    """The freeze rounds that may be tried, and the limits of their cost."""

    low: int
    high: int
    step: int
    rounds: int
    """T, the rounds of a trial."""
    seeds: tuple[int, ...]
    """The seeds of the plan, on which every probe is evaluated."""
    probes: int = 12
    """The most freeze rounds to try."""
    rounds_per_seed: int | None = None
    """The most rounds to spend on the arm for each seed of the plan, its trunk included."""
    extra_seeds: int = 0
    """The most seeds to add if the two best T* do not differ by more than the noise."""
    sampler: str = "tpe"
    trunk: int = 0
    """The rounds of the trunk that BN's trials train in any case."""
    shared: bool = True
    """True if trials share their trunk."""
    finished: frozenset[int] = frozenset()
    """T* that the search has not tried, but whose trials have finished. They cost nothing."""

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The T* that may be tried, in ascending order."""
        return tuple(range(self.low, self.high + 1, self.step))

    def nearest(self, fraction: float) -> int:
        """Return the point nearest to a fraction of T. If two are equally near, the later one."""
        target = fraction * self.rounds
        return min(self.points, key=lambda point: (abs(point - target), -point))


@dataclass(frozen=True)
class Probe:
    """A T* that has been or is being tried, with its values by seed. Higher is better."""

    freeze_round: int
    values: Mapping[int, float]
    diverged: frozenset[int] = frozenset()
    """Seeds that diverged. They count as the worst value of the arm."""
    pending: frozenset[int] = frozenset()
    """Seeds that are queued or running."""
    pruned: bool = False
    """True if the probe was pruned. Its values are of that round, and it cannot be the best."""
    free: bool = False
    """True if its trials had finished before the search proposed them. It costs nothing."""


@dataclass(frozen=True)
class Try:
    """Evaluate a T* on all of the plan's seeds."""

    freeze_round: int
    why: str
    gain: float | None
    """The expected improvement on the best T* so far, in the metric's unit. None for the first."""
    cost: int
    """The rounds over all seeds."""


@dataclass(frozen=True)
class AddSeed:
    """Evaluate these T* on one more seed."""

    seed: int
    freeze_rounds: tuple[int, ...]
    why: str
    cost: int


@dataclass(frozen=True)
class Wait:
    """Try nothing before the running trials have ended."""

    why: str


@dataclass(frozen=True)
class Stop:
    """End the search.

    The reason is `budget`, `settled` (another T* is unlikely to gain more than the noise) or
    `tried` (all of them).
    """

    reason: str
    why: str


Choice = Try | AddSeed | Wait | Stop


def propose(space: Space, history: Sequence[Probe], seed: int) -> Choice:
    """Return what to do next. Equal arguments give equal choices on every machine."""
    known = _History(space, history)
    if len(history) >= space.probes:
        return known.stop_or_wait("budget", f"all {space.probes} freeze rounds have been proposed")
    left = [point for point in space.points if point not in known.at]
    for fraction in FIRST_FRACTIONS:
        first = space.nearest(fraction)
        if first in left and known.affordable(first):
            why = "BN to the end, the trunk of all others" if fraction == 1 else "one of the first"
            return Try(first, why, None, known.cost(first))
        if not known.affordable(first) and first in left:
            break
    if not known.values:
        if known.pending:
            return Wait("no trial has ended yet")
        return known.stop_or_wait("budget", "nothing of it could be evaluated")
    affordable = [point for point in left if known.affordable(point)]
    belief, best = known.belief(left), known.best
    gains = dict(zip(left, belief.gain(known.mean_of[best]), strict=True))
    chance = belief.chance_of_any(known.mean_of[best] + known.noise, SAMPLED_FUNCTIONS)
    if chance < LEAST_CHANCE or not affordable:
        return _close(known, left, chance)
    ranked = _candidates(known, affordable, seed)
    chosen = max(ranked, key=lambda point: (gains[point] / max(known.cost(point), 0.5), point))
    why = (
        f"expected gain {100 * gains[chosen]:.2f} points for {known.cost(chosen):,} rounds, the "
        f"best rate of {len(ranked)} candidates of {space.sampler}"
    )
    return Try(chosen, why, float(gains[chosen]), known.cost(chosen))


def _close(known: _History, left: Sequence[int], chance: float) -> Choice:
    """Wait for running trials, add a seed, or stop, if no new T* is worth its cost."""
    if known.pending:
        return Wait("running trials may change the choice")
    best, second = known.contenders()
    if second is not None:
        gap = known.mean_of[best] - known.mean_of[second]
        extra = set(known.all_seeds) - set(known.space.seeds)
        if gap < known.noise and len(extra) < known.space.extra_seeds:
            added = max(known.all_seeds) + 1
            cost = known.cost_of_seed((best, second))
            if known.spent + cost <= known.limit:
                why = (
                    f"T* = {best} and {second} are {100 * gap:.2f} points apart, less than "
                    f"their noise of {100 * known.noise:.2f}"
                )
                return AddSeed(added, (best, second), why, cost)
    if not left:
        return Stop("tried", "every freeze round has been tried")
    if chance < LEAST_CHANCE:
        return Stop(
            "settled",
            "the chance that another T* gains more than the noise, "
            f"{100 * known.noise:.2f} points, is below {LEAST_CHANCE:.0%}",
        )
    return Stop("budget", f"no other T* fits the budget of {known.limit:,.0f} rounds")


class _History:
    """The history of an arm, as numbers."""

    def __init__(self, space: Space, history: Sequence[Probe]) -> None:
        self.space = space
        self.history = history
        self.at = {probe.freeze_round: probe for probe in history}
        values = [value for probe in history for value in probe.values.values()]
        self.worst = min(values, default=0.0)
        self.values = {
            probe.freeze_round: {**probe.values, **dict.fromkeys(probe.diverged, self.worst)}
            for probe in history
            if probe.values or probe.diverged
        }
        self.pending = [probe.freeze_round for probe in history if probe.pending]
        seeds = {s for probe in history for s in (*probe.values, *probe.diverged, *probe.pending)}
        self.all_seeds = tuple(sorted(seeds | set(space.seeds)))
        self.mean_of, self.variance = _additive(self.values, space.seeds)
        limit = space.rounds_per_seed
        self.limit = math.inf if limit is None else limit * len(space.seeds)

    @property
    def noise(self) -> float:
        """The standard error of the difference of two T* on the plan's seeds."""
        return math.sqrt(2 * self.variance / max(len(self.space.seeds), 1))

    @property
    def best(self) -> int:
        """The T* with the highest mean. If two are equal, the later one, whose tail costs less."""
        return max(self.not_pruned, key=lambda t: (self.mean_of[t], t))

    @property
    def not_pruned(self) -> list[int]:
        """The T* that were not pruned. If all were pruned, all T*."""
        return [t for t in self.mean_of if not self.at[t].pruned] or list(self.mean_of)

    def contenders(self) -> tuple[int, int | None]:
        """Return the two T* with the highest means. The second is None if there is only one."""
        ranked = sorted(self.not_pruned, key=lambda t: (-self.mean_of[t], -t))
        return ranked[0], ranked[1] if len(ranked) > 1 else None

    @cached_property
    def trunk_rounds(self) -> int:
        """The rounds of the trunk that are trained, or will be, for each seed of the plan."""
        forks = [t for t, probe in self.at.items() if probe.values or probe.pending]
        return max([self.space.trunk, *forks])

    def cost(self, point: int) -> int:
        """Return the rounds that it takes to try a T* on the plan's seeds."""
        space = self.space
        if point in space.finished:
            return 0
        if not space.shared:
            return space.rounds * len(space.seeds)
        trunk = max(0, point - self.trunk_rounds)
        return (trunk + space.rounds - point) * len(space.seeds)

    def cost_of_seed(self, points: Sequence[int]) -> int:
        """Return the rounds that it takes to try these T* on a new seed."""
        tails = sum(self.space.rounds - point for point in points)
        trunk = max([self.space.trunk, *points])
        return tails + trunk if self.space.shared else self.space.rounds * len(points)

    @cached_property
    def spent(self) -> int:
        """The rounds of the arm so far, including those of running trials."""
        space, tails = self.space, 0
        for probe in self.history:
            seeds = len({*probe.values, *probe.diverged, *probe.pending})
            each = space.rounds - probe.freeze_round if space.shared else space.rounds
            tails += 0 if probe.free else each * seeds
        return tails + (self.trunk_rounds * len(self.all_seeds) if space.shared else 0)

    def affordable(self, point: int) -> bool:
        """Return whether the budget allows to try a T*."""
        return self.spent + self.cost(point) <= self.limit

    def belief(self, points: Sequence[int]) -> Belief:
        """Return the surrogate's belief about these T*.

        A T* without values counts as observed at the mean of all T* (the constant liar).
        """
        lie = float(np.mean(list(self.mean_of.values())))
        running = [t for t in self.pending if t not in self.mean_of]
        x = [*self.mean_of, *running]
        y = [*self.mean_of.values(), *(lie for _ in running)]
        counts = [len(self.values[t]) for t in self.mean_of]
        noise = [self.variance / n for n in [*counts, *(len(self.all_seeds) for _ in running)]]
        return believe(self.fractions(x), self.softened(y), noise, self.fractions(points))

    def softened(self, values: Sequence[float]) -> list[float]:
        """Raise the values of collapsed trials, which would otherwise set the scale of all."""
        top, middle = max(values), float(np.median(values))
        floor = middle - 2 * max(top - middle, self.noise, 0.005)
        return [max(value, floor) for value in values]

    def fractions(self, points: Sequence[int]) -> list[float]:
        """Return the points as fractions of T."""
        return [point / self.space.rounds for point in points]

    def stop_or_wait(self, reason: str, why: str) -> Choice:
        """Stop, but not before the running trials have ended."""
        return Wait("running trials have not ended") if self.pending else Stop(reason, why)


def _additive(
    values: Mapping[int, Mapping[int, float]], usual_seeds: Sequence[int]
) -> tuple[dict[int, float], float]:
    """Return the means by T* without the levels of the seeds, and the variance of the residuals.

    They are the least-squares solution of y[s, t] = f[t] + b[s]. The levels b of the usual seeds
    sum to 0, so a T* with all of these seeds has their plain mean.
    """
    if not values:
        return {}, 0.0
    points = sorted(values)
    seeds = sorted({s for row in values.values() for s in row})
    n = len(points) + len(seeds)
    rows, targets = [], []
    for i, point in enumerate(points):
        for s, value in values[point].items():
            row = np.zeros(n)
            row[i] = row[len(points) + seeds.index(s)] = 1
            rows.append(row)
            targets.append(value)
    level_seeds = [s for s in seeds if s in usual_seeds] or seeds
    usual = np.zeros(n)
    usual[[len(points) + seeds.index(s) for s in level_seeds]] = 1
    design = np.array([*rows, usual])
    solution = np.linalg.lstsq(design, np.array([*targets, 0.0]), rcond=None)[0]
    residuals = np.array(targets) - np.array(rows) @ solution
    freedom = (
        len(targets) + 1 - int(np.linalg.matrix_rank(design))
    )  # the last row is not a measurement
    means = dict(zip(points, map(float, solution[: len(points)]), strict=True))
    variance = float(residuals @ residuals) / freedom if freedom > 0 else UNKNOWN_VARIANCE
    return means, max(variance, 1e-12)


UNKNOWN_VARIANCE = 0.005**2
"""The assumed variance of a value if it cannot be estimated, as for a single seed.

It is a guess: half a point of accuracy, squared.
"""


def _candidates(known: _History, affordable: Sequence[int], seed: int) -> list[int]:
    """Return the affordable T* that the sampler proposes. If there are none, return all."""
    study = study_of(known.space, known.history, seed)
    proposed = []
    for _ in range(CANDIDATES):
        trial = study.ask()
        proposed.append(
            trial.suggest_int("freeze_round", *_range(known.space), step=known.space.step)
        )
    candidates = [point for point in dict.fromkeys(proposed) if point in affordable]
    return candidates or list(affordable)


def _range(space: Space) -> tuple[int, int]:
    return space.points[0], space.points[-1]


def study_of(space: Space, history: Sequence[Probe], seed: int) -> optuna.Study:
    """Return the history as a study in memory.

    A T* without values counts as the mean of all T*.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=_SAMPLERS[space.sampler](seed))
    known = _History(space, history)
    lie = float(np.mean(list(known.mean_of.values()))) if known.mean_of else None
    low, high = _range(space)
    distribution = optuna.distributions.IntDistribution(low, high, step=space.step)
    for probe in history:
        value = known.mean_of.get(probe.freeze_round, lie)
        if value is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params={"freeze_round": probe.freeze_round},
                    distributions={"freeze_round": distribution},
                    value=value,
                )
            )
    return study


def _tpe(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=len(FIRST_FRACTIONS), constant_liar=True)


def _gp(seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(
        seed=seed, n_startup_trials=len(FIRST_FRACTIONS), deterministic_objective=False
    )


def _random(seed: int) -> Any:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


_SAMPLERS: dict[str, Callable[[int], Any]] = {"tpe": _tpe, "gp": _gp, "random": _random}
SAMPLERS = tuple(_SAMPLERS)


@dataclass(frozen=True)
class Estimate:
    """The estimate of an arm's best T*. Values are in the metric's unit, from 0 to 1."""

    freeze_round: int | None
    """The T* with the highest mean of those whose seeds have all ended, if there is one."""
    low: int | None
    high: int | None
    """The central 90 % interval of the best T*, by the surrogate."""
    points: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """The surrogate's mean and standard deviation at each point."""
    noise: float
    """The standard error of the difference of two T*."""
    spent: int
    """The rounds of the arm, including the trunk."""
    whole_grid: int
    """The rounds of a grid over all points without shared trunks."""


def estimate(space: Space, history: Sequence[Probe], seed: int = 0) -> Estimate:
    """Estimate the best T* and its interval. `seed` is that of the sampled functions."""
    known = _History(space, history)
    grid = space.rounds * len(space.points) * len(space.seeds)
    ended = [t for t in known.mean_of if not known.at[t].pending and not known.at[t].pruned]
    done = {t: known.mean_of[t] for t in ended}
    if not done:
        return Estimate(None, None, None, (), (), (), known.noise, known.spent, grid)
    best = max(done, key=lambda t: (done[t], t))
    belief = known.belief(space.points)
    tops = np.array(space.points)[belief.sample(SAMPLED_FUNCTIONS, seed).argmax(axis=1)]
    low, high = np.quantile(
        tops, [(1 - INTERVAL_PROBABILITY) / 2, (1 + INTERVAL_PROBABILITY) / 2], method="nearest"
    )
    return Estimate(
        best,
        min(int(low), best),
        max(int(high), best),
        space.points,
        tuple(map(float, belief.mean)),
        tuple(map(float, belief.std)),
        known.noise,
        known.spent,
        grid,
    )
