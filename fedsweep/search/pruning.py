"""Pruning: find running probes that cannot win by their curves. A plan has to enable it.

A probe is compared with the finished probes of its arm on the same seeds. The comparison is at the
latest round that all of its seeds have measured. There are two rules:

- `median` (Golovin et al. 2017): its mean is below the median of three or more finished probes.
- `wilcoxon`: it is below the best finished probe by a one-sided signed-rank test over the paired
  seeds (p < 0.1). Fewer than four seeds cannot give such a p.

A probe is never pruned in the first quarter of its tail, because a curve may dip after the freeze
and recover.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARMUP = 0.25
"""The fraction of a tail in which a probe is never pruned."""
FEWEST_FOR_MEDIAN = 3
"""The fewest finished probes for the median rule."""
SIGNIFICANCE = 0.1
"""The p value below which the signed-rank test prunes a probe."""

AccuracyByRound = Mapping[int, float]
"""The metric of a search by round, as far as it was measured."""


@dataclass(frozen=True)
class ProbeCurves:
    """The curves of a probe by seed."""

    freeze_round: int
    curves: Mapping[int, AccuracyByRound]
    running: bool
    """False if the probe has finished on all its seeds."""


@dataclass(frozen=True)
class HopelessProbe:
    """A probe to prune, with the round and the reason."""

    freeze_round: int
    round: int
    why: str


def hopeless_probes(rule: str, rounds: int, probes: Sequence[ProbeCurves]) -> list[HopelessProbe]:
    """Return the running probes that cannot win.

    The rule is none, median or wilcoxon. `rounds` is T.
    """
    finished = [probe for probe in probes if not probe.running and probe.curves]
    hopeless = []
    for probe in probes:
        at = _latest(probe) if probe.running else None
        if at is None or at < probe.freeze_round + WARMUP * (rounds - probe.freeze_round):
            continue
        if at < rounds and (why := _RULES[rule](probe, at, finished)):
            hopeless.append(HopelessProbe(probe.freeze_round, at, why))
    return hopeless


def _latest(probe: ProbeCurves) -> int | None:
    """Return the last round that all seeds of a probe have measured, if there is one."""
    if not probe.curves:
        return None
    return max(set.intersection(*map(set, probe.curves.values())), default=None)


def _mean(probe: ProbeCurves, at: int, seeds: Sequence[int]) -> float | None:
    """Return the mean of these seeds in a round. None if a seed did not measure it."""
    values = [probe.curves.get(seed, {}).get(at) for seed in seeds]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(seeds) else None


def _never(_probe: ProbeCurves, _at: int, _finished: Sequence[ProbeCurves]) -> str | None:
    return None


def _median(probe: ProbeCurves, at: int, finished: Sequence[ProbeCurves]) -> str | None:
    seeds = sorted(probe.curves)
    others = [value for f in finished if (value := _mean(f, at, seeds)) is not None]
    mean = _mean(probe, at, seeds)
    if mean is None or len(others) < FEWEST_FOR_MEDIAN:
        return None
    middle = statistics.median(others)
    if mean >= middle:
        return None
    return f"{100 * mean:.2f} % in round {at}, below the median {100 * middle:.2f} % of others"


def _wilcoxon(probe: ProbeCurves, at: int, finished: Sequence[ProbeCurves]) -> str | None:
    from scipy.stats import wilcoxon

    seeds = sorted(probe.curves)
    means = [(value, f.freeze_round, f) for f in finished if (value := _mean(f, at, seeds))]
    if not means:
        return None
    _, _, best = max(means, key=lambda item: item[:2])
    differences = [probe.curves[seed][at] - best.curves[seed][at] for seed in seeds]
    if not any(differences):
        return None
    method = "exact" if all(differences) else "auto"
    p = float(wilcoxon(differences, alternative="less", method=method).pvalue)
    if p >= SIGNIFICANCE:
        return None
    return f"below T* = {best.freeze_round} in round {at} on paired seeds (p = {p:.3f})"


_RULES = {"none": _never, "median": _median, "wilcoxon": _wilcoxon}
