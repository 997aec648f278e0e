"""What to try next: a pure function of what is known of an arm, and a seed.

An arm is a cell without T*. Its value at T* is the mean over seeds of the metric; since all seeds
share partition, cohorts and batches with themselves at any other T*, a seed's own level is taken
out first: y[s, t] = f[t] + b[s] + e, and the noise is e alone.

Rounds are what a search pays with. A probe at T* costs each seed the T - T* rounds of its tail, and
those of the trunk up to T* that nobody has trained yet.
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
"""Points that the sampler names, of which the one of the most gain a round is taken."""
FIRST = (1.0, 0.5, 0.75)
"""Shares of T that are tried first: BN to the end, which is the trunk of all others, and two tails
that cost little behind it."""
DOUBT = 0.1
"""The search is settled where no T* that is left has this chance of gaining more than the noise."""
DRAWS = 2000
LEVEL = 0.9
"""Of the interval of the best T*."""


@dataclass(frozen=True)
class Space:
    """What may be tried, and what it may cost."""

    low: int
    high: int
    step: int
    rounds: int
    """T."""
    seeds: tuple[int, ...]
    """Those of the plan, on which every probe is evaluated."""
    probes: int = 12
    """The most freeze rounds to try."""
    rounds_per_seed: int | None = None
    """The most rounds to spend on the arm for each seed of the plan, its trunk included."""
    extra_seeds: int = 0
    """The most seeds to add where two T* cannot be told apart."""
    sampler: str = "tpe"
    trunk: int = 0
    """Rounds of the trunk that are trained in any case, by BN's own trials."""
    shared: bool = True
    """Whether trials share their trunk."""
    there: frozenset[int] = frozenset()
    """T* that have not been tried, but whose trials have finished: they cost nothing."""

    @cached_property
    def points(self) -> tuple[int, ...]:
        """Every T* that may be tried, ascending."""
        return tuple(range(self.low, self.high + 1, self.step))

    def nearest(self, share: float) -> int:
        """The point nearest to a share of T; of two, the later."""
        wanted = share * self.rounds
        return min(self.points, key=lambda point: (abs(point - wanted), -point))


@dataclass(frozen=True)
class Probe:
    """A T* that was tried, or is being tried: its values (higher is better) by seed."""

    freeze_round: int
    values: Mapping[int, float]
    diverged: frozenset[int] = frozenset()
    """Seeds that diverged: they count as the worst value seen."""
    pending: frozenset[int] = frozenset()
    """Seeds that wait or run."""
    pruned: bool = False
    """Whether it was given up: its values are of the round in which it was, and it cannot win."""
    free: bool = False
    """Whether all of it was there before the search asked: it costs nothing."""


@dataclass(frozen=True)
class Try:
    """Evaluate a T* on all of the plan's seeds."""

    freeze_round: int
    why: str
    gain: float | None
    """What is expected of it beyond the best T* known, in the metric's unit; None for the first."""
    cost: int
    """Rounds, over the seeds."""


@dataclass(frozen=True)
class AddSeed:
    """Evaluate these T* on one more seed."""

    seed: int
    freeze_rounds: tuple[int, ...]
    why: str
    cost: int


@dataclass(frozen=True)
class Wait:
    """Nothing to try before what runs has ended."""

    why: str


@dataclass(frozen=True)
class Stop:
    """The search is over: `budget`, `settled` (no gain beyond noise), or `tried` (everything)."""

    reason: str
    why: str


Choice = Try | AddSeed | Wait | Stop


def propose(space: Space, history: Sequence[Probe], seed: int) -> Choice:
    """What to do next. Equal arguments give equal answers, on every machine."""
    known = _Known(space, history)
    if len(history) >= space.probes:
        return known.over("budget", f"all {space.probes} freeze rounds have been proposed")
    left = [point for point in space.points if point not in known.at]
    for share in FIRST:
        first = space.nearest(share)
        if first in left and known.affordable(first):
            why = "BN to the end, the trunk of all others" if share == 1 else "one of the first"
            return Try(first, why, None, known.cost(first))
        if not known.affordable(first) and first in left:
            break
    if not known.values:
        if known.pending:
            return Wait("nothing has ended yet")
        return known.over("budget", "nothing of it could be evaluated")
    affordable = [point for point in left if known.affordable(point)]
    belief, best = known.belief(left), known.best
    gains = dict(zip(left, belief.gain(known.mean_of[best]), strict=True))
    chance = max(belief.chance(known.mean_of[best] + known.noise), default=0.0)
    if chance < DOUBT or not affordable:
        return _close(known, left, chance)
    ranked = _candidates(known, affordable, seed)
    chosen = max(ranked, key=lambda point: (gains[point] / max(known.cost(point), 0.5), point))
    why = (
        f"expected gain {100 * gains[chosen]:.2f} points for {known.cost(chosen):,} rounds, the "
        f"best rate of {len(ranked)} candidates of {space.sampler}"
    )
    return Try(chosen, why, float(gains[chosen]), known.cost(chosen))


def _close(known: _Known, left: Sequence[int], chance: float) -> Choice:
    """No new T* is worth it: wait for what runs, or add a seed, or stop."""
    if known.pending:
        return Wait("what runs may change the choice")
    best, second = known.contenders()
    if second is not None:
        apart = known.mean_of[best] - known.mean_of[second]
        extra = set(known.all_seeds) - set(known.space.seeds)
        if apart < known.noise and len(extra) < known.space.extra_seeds:
            added = max(known.all_seeds) + 1
            cost = known.cost_of_seed((best, second))
            if known.spent + cost <= known.limit:
                why = (
                    f"T* = {best} and {second} are {100 * apart:.2f} points apart, less than "
                    f"their noise of {100 * known.noise:.2f}"
                )
                return AddSeed(added, (best, second), why, cost)
    if not left:
        return Stop("tried", "every freeze round has been tried")
    if chance < DOUBT:
        return Stop(
            "settled",
            f"no other T* has a chance of {DOUBT:.0%} to gain more than the noise, "
            f"{100 * known.noise:.2f} points",
        )
    return Stop("budget", f"no other T* fits the budget of {known.limit:,.0f} rounds")


class _Known:
    """A history, as numbers."""

    def __init__(self, space: Space, history: Sequence[Probe]) -> None:
        self.space = space
        self.history = history
        self.at = {probe.freeze_round: probe for probe in history}
        seen = [value for probe in history for value in probe.values.values()]
        self.worst = min(seen, default=0.0)
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
        """The T* of the highest mean; of equals, the later, whose tail is the cheaper."""
        return max(self.alive, key=lambda t: (self.mean_of[t], t))

    @property
    def alive(self) -> list[int]:
        """The T* that were not given up, if there is one."""
        return [t for t in self.mean_of if not self.at[t].pruned] or list(self.mean_of)

    def contenders(self) -> tuple[int, int | None]:
        """The two T* of the highest means."""
        ranked = sorted(self.alive, key=lambda t: (-self.mean_of[t], -t))
        return ranked[0], ranked[1] if len(ranked) > 1 else None

    @cached_property
    def reach(self) -> int:
        """Rounds of the trunk that are trained, or will be, for each seed of the plan."""
        there = [t for t, probe in self.at.items() if probe.values or probe.pending]
        return max([self.space.trunk, *there])

    def cost(self, point: int) -> int:
        """Rounds of trying a T*, over the plan's seeds."""
        space = self.space
        if point in space.there:
            return 0
        if not space.shared:
            return space.rounds * len(space.seeds)
        trunk = max(0, point - self.reach)
        return (trunk + space.rounds - point) * len(space.seeds)

    def cost_of_seed(self, points: Sequence[int]) -> int:
        """Rounds of trying some T* on a new seed."""
        tails = sum(self.space.rounds - point for point in points)
        trunk = max([self.space.trunk, *points])
        return tails + trunk if self.space.shared else self.space.rounds * len(points)

    @cached_property
    def spent(self) -> int:
        """Rounds that the arm takes so far, what runs included."""
        space, tails = self.space, 0
        for probe in self.history:
            seeds = len({*probe.values, *probe.diverged, *probe.pending})
            each = space.rounds - probe.freeze_round if space.shared else space.rounds
            tails += 0 if probe.free else each * seeds
        return tails + (self.reach * len(self.all_seeds) if space.shared else 0)

    def affordable(self, point: int) -> bool:
        return self.spent + self.cost(point) <= self.limit

    def belief(self, points: Sequence[int]) -> Belief:
        """About these T*; what runs counts as seen, at the mean of all (the constant liar)."""
        lie = float(np.mean(list(self.mean_of.values())))
        unseen = [t for t in self.pending if t not in self.mean_of]
        x = [*self.mean_of, *unseen]
        y = [*self.mean_of.values(), *(lie for _ in unseen)]
        counts = [len(self.values[t]) for t in self.mean_of]
        noise = [self.variance / n for n in [*counts, *(len(self.all_seeds) for _ in unseen)]]
        return believe(self.shares(x), self.softened(y), noise, self.shares(points))

    def softened(self, values: Sequence[float]) -> list[float]:
        """Values with what collapsed drawn nearer: one cliff must not tell the whole scale."""
        top, middle = max(values), float(np.median(values))
        floor = middle - 2 * max(top - middle, self.noise, 0.005)
        return [max(value, floor) for value in values]

    def shares(self, points: Sequence[int]) -> list[float]:
        return [point / self.space.rounds for point in points]

    def over(self, reason: str, why: str) -> Choice:
        return Wait("what runs has not ended") if self.pending else Stop(reason, why)


def _additive(
    values: Mapping[int, Mapping[int, float]], usual_seeds: Sequence[int]
) -> tuple[dict[int, float], float]:
    """Means of T* without the levels of the seeds, and the variance of what is left.

    Least squares of y[s, t] = f[t] + b[s], the levels of the usual seeds summing to 0: the mean of
    a T* that has all of them is their plain mean.
    """
    if not values:
        return {}, 0.0
    points = sorted(values)
    seeds = sorted({s for row in values.values() for s in row})
    n = len(points) + len(seeds)
    rows, wanted = [], []
    for i, point in enumerate(points):
        for s, value in values[point].items():
            row = np.zeros(n)
            row[i] = row[len(points) + seeds.index(s)] = 1
            rows.append(row)
            wanted.append(value)
    some = [s for s in seeds if s in usual_seeds] or seeds
    usual = np.zeros(n)
    usual[[len(points) + seeds.index(s) for s in some]] = 1
    design = np.array([*rows, usual])
    solution = np.linalg.lstsq(design, np.array([*wanted, 0.0]), rcond=None)[0]
    residuals = np.array(wanted) - np.array(rows) @ solution
    freedom = len(wanted) + 1 - int(np.linalg.matrix_rank(design))  # the last row measures nothing
    means = dict(zip(points, map(float, solution[: len(points)]), strict=True))
    variance = float(residuals @ residuals) / freedom if freedom > 0 else UNKNOWN_VARIANCE
    return means, max(variance, 1e-12)


UNKNOWN_VARIANCE = 0.005**2
"""Of a value, where one seed tells nothing of it: half a point of accuracy squared, a guess."""


def _candidates(known: _Known, affordable: Sequence[int], seed: int) -> list[int]:
    """Distinct affordable T* that the sampler names; where it names none, all of them."""
    study = study_of(known.space, known.history, seed)
    named = []
    for _ in range(CANDIDATES):
        trial = study.ask()
        named.append(trial.suggest_int("freeze_round", *_range(known.space), step=known.space.step))
    some = [point for point in dict.fromkeys(named) if point in affordable]
    return some or list(affordable)


def _range(space: Space) -> tuple[int, int]:
    return space.points[0], space.points[-1]


def study_of(space: Space, history: Sequence[Probe], seed: int) -> optuna.Study:
    """The history as an in-memory study; what runs counts at the mean of all."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=_SAMPLERS[space.sampler](seed))
    known = _Known(space, history)
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

    return TPESampler(seed=seed, n_startup_trials=len(FIRST), constant_liar=True)


def _gp(seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=len(FIRST), deterministic_objective=False)


def _random(seed: int) -> Any:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


_SAMPLERS: dict[str, Callable[[int], Any]] = {"tpe": _tpe, "gp": _gp, "random": _random}
SAMPLERS = tuple(_SAMPLERS)


@dataclass(frozen=True)
class Answer:
    """What is known of an arm's best T*. Values are in the metric's unit, 0..1."""

    freeze_round: int | None
    """The T* of the highest mean, of those whose every seed has ended; None where there is none."""
    low: int | None
    high: int | None
    """The central 90 % of where the best T* may lie, by the surrogate."""
    points: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """What is believed at each point."""
    noise: float
    """The standard error of the difference of two T*."""
    spent: int
    """Rounds, the trunk included."""
    whole_grid: int
    """Rounds that a grid over all points, sharing nothing, would take."""


def answer(space: Space, history: Sequence[Probe], seed: int = 0) -> Answer:
    """The best T* as far as it is known, and how surely."""
    known = _Known(space, history)
    grid = space.rounds * len(space.points) * len(space.seeds)
    ended = [t for t in known.mean_of if not known.at[t].pending and not known.at[t].pruned]
    done = {t: known.mean_of[t] for t in ended}
    if not done:
        return Answer(None, None, None, (), (), (), known.noise, known.spent, grid)
    best = max(done, key=lambda t: (done[t], t))
    belief = known.belief(space.points)
    tops = np.array(space.points)[belief.draws(DRAWS, seed).argmax(axis=1)]
    low, high = np.quantile(tops, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Answer(
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
