"""Results of searches: the best T* of each arm, its interval, its gains and its cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedsweep.fields import ROW_FIELDS, label
from fedsweep.plans import OUTSIDE_IDENTITY, TrainConfig, TrialSpec
from fedsweep.reports.labels import Row, describe, value_text
from fedsweep.reports.statistics import paired_difference

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fedsweep.search import Estimate, Probe, Space
    from fedsweep.store.arms import Arm, Proposal


@dataclass(frozen=True)
class Gain:
    """The test accuracy at the best T* minus that of a rival, paired by seed, as a fraction."""

    rival: str
    mean: float
    low: float | None
    """The 95 % interval of Student's t over the differences by seed. None for one seed."""
    high: float | None
    seeds: tuple[int, ...]
    fresh: bool
    """True if the search did not use these seeds. Otherwise, T* was selected on these seeds."""


@dataclass(frozen=True)
class SearchResult:
    """The result of the search of one arm, as far as the search has gone."""

    arm: Arm
    estimate: Estimate
    history: tuple[Probe, ...]
    proposals: tuple[Proposal, ...]
    gains: tuple[Gain, ...]

    @property
    def value(self) -> float | None:
        """The mean of the metric at the best T* over its seeds, from 0 to 1."""
        probes = {probe.freeze_round: probe for probe in self.history}
        if self.estimate.freeze_round is None:
            return None
        values = probes[self.estimate.freeze_round].values
        return statistics.fmean(values.values()) if values else None

    @property
    def points(self) -> int:
        """The number of T* that the plan allows."""
        return len(self.arm.spec.points)

    @property
    def undecided(self) -> bool:
        """True if several T* were tried, and the interval of the best one holds every T*."""
        points = self.arm.spec.points
        tried = sum(bool(probe.values) for probe in self.history)
        return tried > 1 and (self.estimate.low, self.estimate.high) == (points[0], points[-1])

    @property
    def standing(self) -> str:
        """Return "searching", or the reason why the search has ended."""
        return self.arm.ended or "searching"


def read_search_results(
    connection: Connection, sweep: str, rows: Sequence[Row] | None = None
) -> list[SearchResult]:
    """Read the results of a sweep's searches, in the order of the plan.

    `rows` are the sweep's rows of the view `results`. Only their cell, seed and test accuracy
    are used. By default, they are read too.
    """
    from fedsweep.store import arms, trial_rows

    searched_arms = arms.of_sweep(connection, sweep)
    if not searched_arms:  # before numpy and scipy are imported
        return []
    from fedsweep.search.planner import history_of, space_of

    rows = trial_rows.results(connection, sweep) if rows is None else rows
    results = []
    for arm in searched_arms:
        history = history_of(arms.tried(connection, arm))
        space = space_of(connection, arm, history)
        proposals = arms.proposals_of(connection, arm.key)
        results.append(search_result(arm, space, history, proposals, rows))
    return results


def search_result(
    arm: Arm,
    space: Space,
    history: Sequence[Probe],
    proposals: Sequence[Proposal],
    rows: Sequence[Row],
) -> SearchResult:
    """Return the result of an arm's search. `rows` are its sweep's rows of `results`."""
    from fedsweep.search import estimate

    best = estimate(space, history)
    used = {s for p in history for s in (*p.values, *p.diverged, *p.pending)} | set(arm.spec.seeds)
    gains: list[Gain] = []
    if best.freeze_round is not None:
        accuracies = _by_seed(rows, arm.spec.trial(best.freeze_round, 0).cell_id)
        for config in arm.spec.rivals:
            rival_accuracies = _by_seed(rows, TrialSpec.of(config).cell_id)
            gain = paired_gain(_rival_name(config), accuracies, rival_accuracies, used)
            gains += [gain] if gain is not None else []
    return SearchResult(arm, best, tuple(history), tuple(proposals), tuple(gains))


def _rival_name(config: TrainConfig) -> str:
    return str(config.normalizer).upper()


def _by_seed(rows: Sequence[Row], cell: str) -> dict[int, float]:
    """Return the final test accuracy of a cell's finished trials, by seed."""
    return {
        row["seed"]: row["test_accuracy"]
        for row in rows
        if row["cell_id"] == cell and row["test_accuracy"] is not None
    }


def paired_gain(
    rival: str,
    accuracies: Mapping[int, float],
    rival_accuracies: Mapping[int, float],
    used: set[int],
) -> Gain | None:
    """Return the gain over a rival. None if the two have no seed in common.

    If two or more seeds were not used by the search, the gain is over these seeds. Otherwise it is
    over the seeds that the search used.
    """
    common = sorted(accuracies.keys() & rival_accuracies.keys())
    fresh = [seed for seed in common if seed not in used]
    seeds = fresh if len(fresh) >= 2 else [seed for seed in common if seed in used]
    if not seeds:
        return None
    gain = paired_difference({seed: accuracies[seed] for seed in seeds}, rival_accuracies)
    assert gain is not None
    return Gain(rival, gain.mean, gain.low, gain.high, tuple(seeds), fresh=len(fresh) >= 2)


def arm_names(results: Sequence[SearchResult]) -> list[str]:
    """Name each arm by the fields in which the arms of the sweep differ."""
    configs = [result.arm.spec.config.model_dump() for result in results]
    told = {"seed", "freeze_round"} | OUTSIDE_IDENTITY
    fields = dict.fromkeys((*ROW_FIELDS, *(configs[0] if configs else ())))
    varying = [f for f in fields if f not in told and len({repr(c[f]) for c in configs}) > 1]
    if not varying:
        return [describe_arm(config, ROW_FIELDS) for config in configs]
    return [describe_arm(config, varying) for config in configs]


def describe_arm(config: Row, fields: Sequence[str]) -> str:
    """Return text such as "α = 0.1, E = 5". Fields that are not set are left out."""
    parts = [f"{label(f)} = {value_text(config[f])}" for f in fields if config.get(f) is not None]
    return ", ".join(parts) or describe(config)


def record(result: SearchResult) -> dict[str, Any]:
    """Return a record of the result for scripts. Accuracies and gains are fractions."""
    arm, best = result.arm, result.estimate
    fields = arm.spec.config.model_dump(exclude_none=True)
    return {
        "sweep": arm.sweep_name,
        "arm_id": arm.spec.arm_id,
        **{key: v for key, v in fields.items() if key not in ("seed", "freeze_round")},
        "standing": result.standing,
        "said": arm.said,
        "metric": arm.spec.search.metric,
        "freeze_round": best.freeze_round,
        "freeze_round_low": best.low,
        "freeze_round_high": best.high,
        "value": result.value,
        "noise": best.noise,
        "tried": [
            {
                "freeze_round": p.freeze_round,
                "values": {str(s): v for s, v in sorted(p.values.items())},
                "diverged": sorted(p.diverged),
                "pending": sorted(p.pending),
            }
            for p in result.history
        ],
        "gains": [
            {
                "over": g.rival.lower(),
                "mean": g.mean,
                "low": g.low,
                "high": g.high,
                "seeds": list(g.seeds),
                "fresh_seeds": g.fresh,
            }
            for g in result.gains
        ],
        "rounds_spent": best.spent,
        "rounds_of_grid": best.whole_grid,
    }
