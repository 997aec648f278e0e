"""The figure of a sweep's searches."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from fedsweep.appearance import FIGURE_COLORS, FREEZE_SHADES
from fedsweep.reports import layout
from fedsweep.reports.figure_data import FigureData
from fedsweep.reports.panels import BAND, EDGE, MARKER, Panels, Plot
from fedsweep.reports.search_results import SearchResult

LINES = ("surrogate, 95 %", "one seed", "mean over seeds", "best T⋆, 90 %")
"""The names of the lines and points, in the order of the legend."""


def searches(
    results: Sequence[SearchResult], titles: Sequence[str], width: float | None = None
) -> Plot | None:
    """Draw a panel for each arm: its values by T*, the surrogate's mean, and the best T*.

    `titles` name the arms. Returns None if no search has an estimate.
    """
    drawn = [(r, title) for r, title in zip(results, titles, strict=True) if r.estimate.points]
    if not drawn:
        return None
    panels = Panels(len(drawn), width)
    metrics = list(dict.fromkeys(result.arm.spec.search.metric for result, _ in drawn))
    rows: list[tuple[Any, ...]] = []
    for axis, (result, title) in panels.over(drawn):
        _draw(axis, result)
        rows += [(title, result.arm.spec.search.metric, *row) for row in _rows(result)]
        panels.name(axis, f"{title} ({result.standing})", "T⋆, rounds")
    left = f"{' or '.join(sorted(m.replace('_', ' ') for m in metrics))}, %"
    bottom = _floor([result for result, _ in drawn])
    return Plot(panels.finished(left, LINES, bottom), FigureData(COLUMNS, rows))


COLUMNS = ("arm", "metric", "line", "freeze_round", "seed", "n", "mean", "std", "low", "high")
"""The columns of the figure's data. `low` and `high` are an interval of the value or of T*."""


def _draw(axis: Axes, result: SearchResult) -> None:
    best = result.estimate
    surrogate, seed, means, optimum = LINES
    mean, low, high = ([100 * v for v in values] for values in _surrogate(result))
    color = FREEZE_SHADES[len(FREEZE_SHADES) // 2]
    axis.plot(best.points, mean, color=color, label=surrogate, linewidth=layout.LINE)
    axis.fill_between(best.points, low, high, color=color, alpha=BAND, linewidth=0)
    history = [probe for probe in result.history if probe.values]
    for probe in history:
        values = [100 * v for v in probe.values.values()]
        at = [probe.freeze_round] * len(values)
        axis.plot(at, values, ".", color="#888888", markersize=MARKER, label=seed)
    at = [probe.freeze_round for probe in history]
    heights = [100 * statistics.fmean(probe.values.values()) for probe in history]
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": EDGE / 2, "zorder": 3}
    axis.plot(at, heights, "o", color=FREEZE_SHADES[-3], markersize=MARKER, label=means, **edge)
    if best.freeze_round is not None and best.low is not None and best.high is not None:
        orange = FIGURE_COLORS["in"]
        axis.axvspan(best.low, best.high, color=orange, alpha=BAND, linewidth=0)
        axis.axvline(
            best.freeze_round, color=orange, linestyle="--", linewidth=layout.LINE, label=optimum
        )


def _surrogate(result: SearchResult) -> tuple[list[float], list[float], list[float]]:
    """Return the surrogate's mean and the limits of its 95 % interval."""
    best = result.estimate
    pairs = list(zip(best.mean, best.std, strict=True))
    low, high = ([m + s * d for m, d in pairs] for s in (-1.96, 1.96))
    return list(best.mean), low, high


def _rows(result: SearchResult) -> list[tuple[Any, ...]]:
    """Return the points of a panel, without its arm and metric."""
    best = result.estimate
    surrogate, seed, means, optimum = LINES
    mean, low, high = _surrogate(result)
    rows: list[tuple[Any, ...]] = [
        (surrogate, t, None, None, m, d, lo, hi)
        for t, m, d, lo, hi in zip(best.points, mean, best.std, low, high, strict=True)
    ]
    for probe in result.history:
        values = probe.values
        rows += [(seed, probe.freeze_round, s, 1, v, None, None, None) for s, v in values.items()]
        if values:
            std = statistics.stdev(values.values()) if len(values) > 1 else None
            at = (means, probe.freeze_round, None, len(values))
            rows.append((*at, statistics.fmean(values.values()), std, None, None))
    if best.freeze_round is not None:
        rows.append((optimum, best.freeze_round, None, None, None, None, best.low, best.high))
    return rows


def _floor(results: Sequence[SearchResult]) -> float:
    """Return the lower limit of the y axis, in percent.

    A few collapsed trials may lie below it. Otherwise they would flatten all other points.
    """
    probes = [p.values.values() for result in results for p in result.history if p.values]
    means = [100 * math.fsum(values) / len(values) for values in probes]
    lowest = 100 * min(itertools.chain.from_iterable(probes))
    middle = statistics.median(means)
    return max(lowest, middle - 5 * (max(means) - middle + 1)) - 1
