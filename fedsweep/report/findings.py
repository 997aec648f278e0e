"""What searches found: each arm's best T*, how surely, what it gains, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsweep.fields import ROW_FIELDS, label
from fedsweep.plan import TrialSpec
from fedsweep.report.labels import Row, describe, value_text
from fedsweep.report.statistics import difference
from fedsweep.search import Answer, Probe, Space, answer
from fedsweep.store.arms import Arm, Proposal


@dataclass(frozen=True)
class Gain:
    """The test accuracy of the proposed T* minus a rival's, paired by seed; shares, not points."""

    rival: str
    mean: float
    low: float | None
    """The 95 % interval of Student's t over the seeds' differences; None at n = 1."""
    high: float | None
    seeds: tuple[int, ...]
    fresh: bool
    """Whether these seeds did not choose T*; else T* was selected on these seeds."""


@dataclass(frozen=True)
class Finding:
    """One arm's answer."""

    arm: Arm
    answer: Answer
    history: tuple[Probe, ...]
    proposals: tuple[Proposal, ...]
    gains: tuple[Gain, ...]

    @property
    def value(self) -> float | None:
        """The metric at the proposed T*, mean over its seeds, 0..1."""
        at = {probe.freeze_round: probe for probe in self.history}
        found = at[self.answer.freeze_round].values if self.answer.freeze_round is not None else {}
        return statistics.fmean(found.values()) if found else None

    @property
    def points(self) -> int:
        """How many T* there are to try."""
        return len(self.arm.spec.points)

    @property
    def standing(self) -> str:
        """Whether it is searched, or why not any more."""
        return self.arm.ended or "searching"


def find(
    arm: Arm,
    space: Space,
    history: Sequence[Probe],
    proposals: Sequence[Proposal],
    rows: Sequence[Row],
) -> Finding:
    """An arm's answer, from its search and its sweep's rows of `results`."""
    found = answer(space, history)
    used = {s for p in history for s in (*p.values, *p.diverged, *p.pending)} | set(arm.spec.seeds)
    gains: list[Gain] = []
    if found.freeze_round is not None:
        mine = _by_seed(rows, arm.spec.trial(found.freeze_round, 0).cell_id)
        for config in arm.spec.rivals:
            theirs = _by_seed(rows, TrialSpec.of(config).cell_id)
            gain = paired(_rival(config), mine, theirs, used)
            gains += [gain] if gain is not None else []
    return Finding(arm, found, tuple(history), tuple(proposals), tuple(gains))


def _rival(config: Any) -> str:
    return str(config.normalizer).upper()


def _by_seed(rows: Sequence[Row], cell: str) -> dict[int, float]:
    """The final test accuracy of a cell's finished trials."""
    return {
        row["seed"]: row["test_accuracy"]
        for row in rows
        if row["cell_id"] == cell and row["test_accuracy"] is not None
    }


def paired(
    rival: str, mine: Mapping[int, float], theirs: Mapping[int, float], used: set[int]
) -> Gain | None:
    """The gain over the seeds that the search did not use, if there are two; else over all."""
    both = sorted(mine.keys() & theirs.keys())
    fresh = [seed for seed in both if seed not in used]
    seeds = fresh if len(fresh) >= 2 else [seed for seed in both if seed in used]
    if not seeds:
        return None
    apart = difference({seed: mine[seed] for seed in seeds}, theirs)
    assert apart is not None
    return Gain(rival, apart.mean, apart.low, apart.high, tuple(seeds), fresh=len(fresh) >= 2)


def names(findings: Sequence[Finding]) -> list[str]:
    """Each arm in a few words: what tells the arms of a sweep apart."""
    configs = [finding.arm.spec.config.model_dump() for finding in findings]
    varying = [
        field
        for field in (configs[0] if configs else {})
        if field not in ("seed", "freeze_round") and len({repr(c[field]) for c in configs}) > 1
    ]
    if not varying:
        return [describe_arm(config, ROW_FIELDS) for config in configs]
    return [describe_arm(config, varying) for config in configs]


def describe_arm(config: Row, fields: Sequence[str]) -> str:
    """α = 0.1, E = 5."""
    told = [f"{label(f)} = {value_text(config[f])}" for f in fields if config.get(f) is not None]
    return ", ".join(told) or describe(config)


def record(finding: Finding) -> dict[str, Any]:
    """For scripts; accuracies and gains 0..1."""
    arm, found = finding.arm, finding.answer
    fields = arm.spec.config.model_dump(exclude_none=True)
    return {
        "sweep": arm.sweep_name,
        "arm_id": arm.spec.arm_id,
        **{key: v for key, v in fields.items() if key not in ("seed", "freeze_round")},
        "standing": finding.standing,
        "said": arm.said,
        "metric": arm.spec.search.metric,
        "freeze_round": found.freeze_round,
        "freeze_round_low": found.low,
        "freeze_round_high": found.high,
        "value": finding.value,
        "noise": found.noise,
        "tried": [
            {
                "freeze_round": p.freeze_round,
                "values": {str(s): v for s, v in sorted(p.values.items())},
                "diverged": sorted(p.diverged),
                "pending": sorted(p.pending),
            }
            for p in finding.history
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
            for g in finding.gains
        ],
        "rounds_spent": found.spent,
        "rounds_of_grid": found.whole_grid,
    }
