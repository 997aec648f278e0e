"""Figures of a summary: curves by round, accuracy by T*, α or E, and the best arms."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fedsweep.appearance import FIGURE_COLORS, FOREIGN, FREEZE_SHADES
from fedsweep.fields import label
from fedsweep.reports import layout
from fedsweep.reports.differences import marks
from fedsweep.reports.freeze_rounds import by_freeze_round, freeze_round
from fedsweep.reports.grouping import Cell, MeanCurve, Summary, column_text, mean_curve
from fedsweep.reports.labels import ColumnKey, Row, RowKey, field_text, sort_key
from fedsweep.store.rows import Curves

if TYPE_CHECKING:
    from fedsweep.reports.search_results import SearchResult

MOST_SETTINGS = 24
"""The most panels of a figure. More of them could not be read."""

WINNER_INCHES, WINNER_FONT = 1.3, 9.0
"""The width at which the name of a winner is wrapped, and its font size in points."""

Places = Mapping[tuple[Any, Any], tuple[ColumnKey, str]]
"""The best column at each α and E, and its text."""


def arms_by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves: Curves,
    heading: str = "test accuracy, %",
    scale: float = 100,
) -> Figure | None:
    """Draw a panel for each row of the summary, with a line for each arm.

    A band shows one standard deviation over seeds. A line is the mean of the arm's finished trials,
    or of its running trials if none has finished. `heading` names the values times `scale`.
    Returns None if no trial has values yet.
    """
    panels: dict[RowKey, dict[ColumnKey, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = tuple(row[name] for name in summary.axes)
            panels[panel][summary.column(row)].append(row)
    if not panels:
        return None
    figure, axes = layout.grid(min(len(panels), MOST_SETTINGS))
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        arms = panels[panel]
        trunk = any(column[0] == "bn" for column in arms)
        for column in sorted(arms, key=summary.columns.index):
            curve = _curve(arms[column], curves)
            _draw_arm(axis, summary, column, curve, colors[column], scale, trunk=trunk)
        _name_panel(axis, _title(summary.axes, panel), "round")
    return _finish(figure, axes, heading, len(panels))


def alphas_by_round(
    summary: Summary, rows: Sequence[Row], curves: Curves, heading: str
) -> Figure | None:
    """Draw a panel for each arm and point of the axes other than α, with a line for each α."""
    varying = [n for i, n in enumerate(summary.axes) if len({key[i] for key in summary.cells}) > 1]
    fields = [n for n in varying if n not in ("alpha", "centralized")]
    panels: dict[tuple[ColumnKey, RowKey], dict[Any, list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = (summary.column(row), tuple(row[name] for name in fields))
            panels[panel][row["alpha"]].append(row)
    if not panels:
        return None
    figure, axes = layout.grid(min(len(panels), MOST_SETTINGS))
    colors = _shades({alpha for lines in panels.values() for alpha in lines})
    in_order = sorted(panels, key=lambda p: (summary.columns.index(p[0]), sort_key(p[1])))
    for axis, (column, point) in zip(axes, in_order, strict=False):
        lines = panels[column, point]
        for alpha in sorted(lines, key=lambda alpha: sort_key((alpha,))):
            name = f"α = {field_text('alpha', alpha)}"
            _draw_curve(axis, _curve(lines[alpha], curves), colors[alpha], name)
        texts = filter(None, [column_text(summary, column), _title(fields, point)])
        _name_panel(axis, ", ".join(texts), "round")
    return _finish(figure, axes, heading, len(panels))


def _shades(values: set[Any]) -> dict[Any, str]:
    """Return a color for each value, from dark to light."""
    in_order = sorted(values, key=lambda value: sort_key((value,)))
    shade, steps = colormaps["viridis"], max(len(in_order) - 1, 1)
    return {value: to_hex(shade(0.85 * i / steps)) for i, value in enumerate(in_order)}


def _curve(rows: Sequence[Row], curves: Curves) -> MeanCurve:
    """Return the mean curve of the finished trials, or of the running ones if none has finished."""
    finished = [row for row in rows if row["state"] == "finished"]
    return mean_curve([curves[row["trial_id"]] for row in finished or rows])


def _draw_curve(axis: Axes, curve: MeanCurve, color: str, name: str, scale: float = 1.0) -> None:
    mean, std = ([scale * v for v in values] for values in (curve.mean, curve.std))
    low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1, 1))
    axis.plot(curve.rounds, mean, label=name, color=color, linewidth=1.6)
    axis.fill_between(curve.rounds, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_arm(
    axis: Axes,
    summary: Summary,
    column: ColumnKey,
    curve: MeanCurve,
    color: str,
    scale: float,
    *,
    trunk: bool,
) -> None:
    frozen = freeze_round(summary, column) or 0
    fork = max((r for r in curve.rounds if r <= frozen), default=None)
    # Up to T*, FIXBN equals BN bit for bit. If BN is drawn, the line of FIXBN begins at T*.
    first = curve.rounds.index(fork) if trunk and fork is not None else 0
    forked = MeanCurve(curve.rounds[first:], curve.mean[first:], curve.std[first:])
    _draw_curve(axis, forked, color, column_text(summary, column), scale)
    if fork:
        height = scale * curve.mean[curve.rounds.index(fork)]
        axis.plot(fork, height, "o", color=color, markersize=4)


def accuracy_by_freeze_round(summary: Summary) -> Figure | None:
    """Draw the final accuracy of FIXBN over T*, and the others as dashed lines.

    Returns None if no trial with a T* has finished.
    """
    panels = by_freeze_round(summary)
    if not panels:
        return None
    figure, axes = layout.grid(min(len(panels), MOST_SETTINGS))
    for axis, (key, panel) in zip(axes, panels.items(), strict=False):
        for number, (column, points) in enumerate(panel.lines.items()):
            color = FREEZE_SHADES[(2 + 2 * number) % len(FREEZE_SHADES)]
            _error_bars(axis, points, color, column_text(summary, column))
        for column, cell in panel.levels.items():
            color, name = FIGURE_COLORS.get(column[0], FOREIGN), column_text(summary, column)
            axis.axhline(100 * (cell.mean or 0), color=color, linestyle="--", label=name)
        _name_panel(axis, _title(summary.axes, key), "T⋆, rounds")
        if total := panel.rounds:
            axis.set_xlim(-0.03 * total, 1.03 * total)
    return _finish(figure, axes, "final test accuracy, %", len(panels))


def _error_bars(axis: Axes, points: Sequence[tuple[float, Cell]], color: str, name: str) -> None:
    means = [100 * (c.mean or 0) for _, c in points]
    stds = [100 * (c.std or 0) for _, c in points]
    at = [x for x, _ in points]
    axis.errorbar(at, means, yerr=stds, color=color, marker="o", capsize=3, label=name)


def accuracy_by_field(summary: Summary, field: str) -> Figure | None:
    """Draw the final accuracy over α or E on a logarithmic axis.

    Each point of the other axes has a panel. Returns None if no arm has results at two values.
    """
    if field not in summary.axes:
        return None
    place = summary.axes.index(field)
    rest = [name for name in summary.axes if name != field]
    panels: dict[RowKey, dict[ColumnKey, list[tuple[float, Cell]]]]
    panels = defaultdict(lambda: defaultdict(list))
    for key, cells in summary.cells.items():
        panel = key[:place] + key[place + 1 :]
        for column, cell in cells.items():
            if key[place] is not None and cell.mean is not None:
                panels[panel][column].append((key[place], cell))
    drawn = {p: c for p, c in panels.items() if any(len(points) > 1 for points in c.values())}
    if not drawn:
        return None
    figure, axes = layout.grid(min(len(drawn), MOST_SETTINGS))
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(drawn, key=sort_key), strict=False):
        for column in sorted(drawn[panel], key=summary.columns.index):
            points = sorted(drawn[panel][column], key=lambda point: point[0])
            _error_bars(axis, points, colors[column], column_text(summary, column))
        _name_panel(axis, _title(rest, panel), label(field))
        ticks = sorted({x for points in drawn[panel].values() for x, _ in points})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [field_text(field, x) for x in ticks])
        axis.minorticks_off()
        layout.uncrowd(axis)
    return _finish(figure, axes, "final test accuracy, %", len(drawn))


def wins(summary: Summary) -> Figure | None:
    """Draw the best arm at each α and E, and its lead over the next.

    A cell that lacks a trial takes no part. Returns None if no panel has two pairs of α and E.
    """
    if not {"alpha", "local_steps"} <= set(summary.axes):
        return None
    across, down = summary.axes.index("alpha"), summary.axes.index("local_steps")
    winners: dict[RowKey, dict[tuple[Any, Any], tuple[ColumnKey, str]]] = defaultdict(dict)
    for key, cells in summary.cells.items():
        best = marks(cells, "test_accuracy").best
        if best is None or key[across] is None or key[down] is None:
            continue
        means = sorted((c.mean or 0 for c in cells.values() if c.whole), reverse=True)
        panel = tuple(v for i, v in enumerate(key) if i not in (across, down))
        text = f"{column_text(summary, best)}\n+{100 * (means[0] - means[1]):.1f}"
        winners[panel][key[across], key[down]] = (best, text)
    panels = {panel: _wrapped(places) for panel, places in winners.items() if len(places) > 1}
    if not panels:
        return None
    rest = [name for i, name in enumerate(summary.axes) if i not in (across, down)]
    size = _wins_size(list(panels.values()))
    figure, axes = layout.grid(min(len(panels), MOST_SETTINGS), share=False, size=size)
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        _draw_wins(axis, panels[panel], colors)
        _name_panel(axis, _title(rest, panel), "α")
        _number_places(axis, panels[panel])
    return _finish(figure, axes, "", len(panels))


def _wrapped(places: Places) -> Places:
    return {
        place: (column, layout.wrapped(name, WINNER_INCHES, WINNER_FONT) + f"\n{lead}")
        for place, (column, text) in places.items()
        for name, lead in [text.split("\n")]
    }


def _wins_size(panels: Sequence[Places]) -> tuple[float, float]:
    """Return the inches of a panel in which every winner's name lies in its cell."""
    texts = [text for places in panels for _, text in places.values()]
    wide = max(layout.width(text, WINNER_FONT) for text in texts) + 2 * layout.PAD
    high = max(text.count("\n") + 1 for text in texts) * 1.3 * WINNER_FONT / layout.POINTS
    alphas, steps = (max(len({place[i] for place in p}) for p in panels) for i in (0, 1))
    return max(layout.PANEL[0], alphas * wide), max(layout.PANEL[1], steps * (high + layout.PAD))


def _draw_wins(axis: Axes, places: Places, colors: dict[ColumnKey, str]) -> None:
    alphas, steps = (sorted({place[i] for place in places}) for i in (0, 1))
    for (alpha, step), (column, text) in places.items():
        x, y = alphas.index(alpha), steps.index(step)
        axis.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor=colors[column], alpha=0.35, edgecolor="white"
            )
        )
        axis.text(x, y, text, ha="center", va="center", fontsize=WINNER_FONT, parse_math=False)
    axis.set_xlim(-0.5, len(alphas) - 0.5)
    axis.set_ylim(-0.5, len(steps) - 0.5)
    axis.grid(visible=False)


def _number_places(axis: Axes, places: Mapping[tuple[Any, Any], object]) -> None:
    alphas, steps = (sorted({place[i] for place in places}) for i in (0, 1))
    axis.set_xticks(range(len(alphas)), [field_text("alpha", v) for v in alphas])
    axis.set_yticks(range(len(steps)), [field_text("local_steps", v) for v in steps])
    axis.set_ylabel("E")


def searches(results: Sequence[SearchResult], titles: Sequence[str]) -> Figure | None:
    """Draw a panel for each arm: its values by T*, the surrogate's mean, and the best T*."""
    drawn = [(r, title) for r, title in zip(results, titles, strict=True) if r.estimate.points]
    if not drawn:
        return None
    figure, axes = layout.grid(min(len(drawn), MOST_SETTINGS))
    for axis, (result, title) in zip(axes, drawn, strict=False):
        best = result.estimate
        history = [probe for probe in result.history if probe.values]
        mean, std = ([100 * v for v in values] for values in (best.mean, best.std))
        low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1.96, 1.96))
        axis.plot(best.points, mean, color=FREEZE_SHADES[2], label="surrogate, 95 %")
        axis.fill_between(best.points, low, high, color=FREEZE_SHADES[2], alpha=0.15, linewidth=0)
        for probe in history:
            values = [100 * v for v in probe.values.values()]
            at = [probe.freeze_round] * len(values)
            axis.plot(at, values, ".", color="#888888", markersize=4, label="one seed")
        means = [100 * math.fsum(p.values.values()) / len(p.values) for p in history]
        at = [p.freeze_round for p in history]
        axis.plot(at, means, "o", color=FREEZE_SHADES[3], label="mean over seeds")
        if best.freeze_round is not None and best.low is not None and best.high is not None:
            axis.axvspan(best.low, best.high, color=FIGURE_COLORS["in"], alpha=0.12, linewidth=0)
            axis.axvline(
                best.freeze_round, color=FIGURE_COLORS["in"], linestyle="--", label="best T⋆, 90 %"
            )
        _name_panel(axis, f"{title} ({result.standing})", "T⋆, rounds")
    axes[0].set_ylim(bottom=_floor([result for result, _ in drawn]))  # the panels share the axis
    metrics = {result.arm.spec.search.metric.replace("_", " ") for result, _ in drawn}
    return _finish(figure, axes, f"{' or '.join(sorted(metrics))}, %", len(drawn))


def _floor(results: Sequence[SearchResult]) -> float:
    """Return the lower limit of the y axis, in percent.

    A few collapsed trials may lie below it. Otherwise they would flatten all other points.
    """
    probes = [p.values.values() for result in results for p in result.history if p.values]
    means = [100 * math.fsum(values) / len(values) for values in probes]
    middle = statistics.median(means)
    return max(min(means), middle - 5 * (max(means) - middle + 1)) - 1


def _name_panel(axis: Axes, title: str, below: str) -> None:
    axis.set_title(title, fontsize=layout.FONT)
    axis.set_xlabel(below)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _finish(figure: Figure, axes: Sequence[Axes], left: str, panels: int) -> Figure:
    """Name the y axis and each line once, and set the layout.

    A heading says if panels are left out.
    """
    for axis in axes:
        if left and axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # a grid's axis has one
            axis.set_ylabel(left)
    handles = {
        name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    heading = ""
    if panels > MOST_SETTINGS:
        heading = f"the first {MOST_SETTINGS} of {panels} settings: --where shows others"
    layout.fit_texts(figure, axes, handles, heading)
    return figure


def _colors(columns: Sequence[ColumnKey]) -> dict[ColumnKey, str]:
    """Return the color of each column: that of its normalizer, and for FIXBN a blue by T*."""
    frozen = sorted((column for column in columns if column[0] == "fixbn"), key=sort_key)
    colors = {column: FIGURE_COLORS.get(column[0], FOREIGN) for column in columns}
    depth = LinearSegmentedColormap.from_list("depth", FREEZE_SHADES)
    for place, column in enumerate(frozen):
        colors[column] = to_hex(depth(place / max(len(frozen) - 1, 1)))
    return colors


def _title(fields: Sequence[str], panel: RowKey) -> str:
    pairs = zip(fields, panel, strict=True)
    shown = [(n, v) for n, v in pairs if v is not None and not (n == "centralized" and not v)]
    return ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in shown)
