"""Figures of a summary: by round, by T*, by α and E, and who wins where."""

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
from fedsweep.report import layout
from fedsweep.report.differences import marks
from fedsweep.report.grouping import Cell, Curve, Summary, column_text, mean_curve
from fedsweep.report.labels import Column, Key, Row, field_text, sort_key

if TYPE_CHECKING:
    from fedsweep.report.findings import Finding

MOST = 24
"""Panels that a figure has: more cannot be read."""

WINNER_INCHES, WINNER_FONT = 1.3, 9.0
"""The width at which the name of a winner is wrapped, and its points."""

Places = Mapping[tuple[Any, Any], tuple[Column, str]]
"""The best column at each α and E, and its text."""

Curves = Mapping[str, Mapping[int, float]]
"""A measure by round, for each trial that took it."""


def arms_by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves: Curves,
    what: str = "test accuracy, %",
    scale: float = 100,
) -> Figure | None:
    """A panel for each point of the other axes, a line for each arm, a band of one std over seeds.

    `what` names the curves' values times `scale`. Of an arm, its finished trials; where it has
    none, those that run. None where nothing was measured yet.
    """
    panels: dict[Key, dict[Column, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = tuple(row[name] for name in summary.axes)
            panels[panel][summary.column(row)].append(row)
    if not panels:
        return None
    figure, axes = layout.grid(min(len(panels), MOST))
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        arms = panels[panel]
        trunk = any(column[0] == "bn" for column in arms)
        for column in sorted(arms, key=summary.columns.index):
            curve = _curve(arms[column], curves)
            _draw_arm(axis, summary, column, curve, colors[column], scale, trunk=trunk)
        _say(axis, _title(summary.axes, panel), "round")
    return _finish(figure, axes, what, len(panels))


def alphas_by_round(
    summary: Summary, rows: Sequence[Row], curves: Curves, what: str
) -> Figure | None:
    """A panel for each arm and point of the other axes, a line for each α."""
    varying = [n for i, n in enumerate(summary.axes) if len({key[i] for key in summary.cells}) > 1]
    fields = [n for n in varying if n not in ("alpha", "centralized")]
    panels: dict[tuple[Column, Key], dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = (summary.column(row), tuple(row[name] for name in fields))
            panels[panel][row["alpha"]].append(row)
    if not panels:
        return None
    figure, axes = layout.grid(min(len(panels), MOST))
    colors = _shades({alpha for lines in panels.values() for alpha in lines})
    in_order = sorted(panels, key=lambda p: (summary.columns.index(p[0]), sort_key(p[1])))
    for axis, (column, point) in zip(axes, in_order, strict=False):
        lines = panels[column, point]
        for alpha in sorted(lines, key=lambda alpha: sort_key((alpha,))):
            name = f"α = {field_text('alpha', alpha)}"
            _draw_curve(axis, _curve(lines[alpha], curves), colors[alpha], name)
        said = filter(None, [column_text(summary, column), _title(fields, point)])
        _say(axis, ", ".join(said), "round")
    return _finish(figure, axes, what, len(panels))


def _shades(values: set[Any]) -> dict[Any, str]:
    """Colors that go from dark to light with the value."""
    in_order = sorted(values, key=lambda value: sort_key((value,)))
    shade, steps = colormaps["viridis"], max(len(in_order) - 1, 1)
    return {value: to_hex(shade(0.85 * i / steps)) for i, value in enumerate(in_order)}


def _curve(rows: Sequence[Row], curves: Curves) -> Curve:
    """Of the finished trials; where there is none, of those that run."""
    finished = [row for row in rows if row["state"] == "finished"]
    return mean_curve([curves[row["trial_id"]] for row in finished or rows])


def _draw_curve(axis: Axes, curve: Curve, color: str, name: str, scale: float = 1.0) -> None:
    mean, std = ([scale * v for v in values] for values in (curve.mean, curve.std))
    low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1, 1))
    axis.plot(curve.rounds, mean, label=name, color=color, linewidth=1.6)
    axis.fill_between(curve.rounds, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_arm(
    axis: Axes,
    summary: Summary,
    column: Column,
    curve: Curve,
    color: str,
    scale: float,
    *,
    trunk: bool,
) -> None:
    frozen = _freeze_round(summary, column) or 0
    fork = max((r for r in curve.rounds if r <= frozen), default=None)
    # Up to T* FIXBN is BN, bit for bit: where BN is drawn, FIXBN forks off it.
    first = curve.rounds.index(fork) if trunk and fork is not None else 0
    forked = Curve(curve.rounds[first:], curve.mean[first:], curve.std[first:])
    _draw_curve(axis, forked, color, column_text(summary, column), scale)
    if fork:
        height = scale * curve.mean[curve.rounds.index(fork)]
        axis.plot(fork, height, "o", color=color, markersize=4)


def accuracy_by_freeze_round(summary: Summary) -> Figure | None:
    """Final accuracy of fixbn over T*, with the others as lines. None where no T* has finished."""
    lines: dict[Key, dict[Column, list[tuple[int, Cell]]]]
    lines = defaultdict(lambda: defaultdict(list))
    levels: dict[Key, dict[Column, Cell]] = defaultdict(dict)
    for panel, cells in summary.cells.items():
        for column, cell in cells.items():
            frozen = _freeze_round(summary, column)
            if cell.mean is None:
                continue
            if frozen is not None:
                lines[panel][_without_freeze_round(summary, column)].append((frozen, cell))
            else:
                levels[panel][column] = cell
    if not lines:
        return None
    figure, axes = layout.grid(min(len(lines), MOST))
    for axis, panel in zip(axes, sorted(lines, key=sort_key), strict=False):
        for number, column in enumerate(sorted(lines[panel], key=sort_key)):
            points = sorted(lines[panel][column], key=lambda point: point[0])
            color = FREEZE_SHADES[(2 + 2 * number) % len(FREEZE_SHADES)]
            _error_bars(axis, points, color, column_text(summary, column))
        for column in sorted(levels[panel], key=summary.columns.index):
            height = 100 * (levels[panel][column].mean or 0)
            color, name = FIGURE_COLORS.get(column[0], FOREIGN), column_text(summary, column)
            axis.axhline(height, color=color, linestyle="--", label=name)
        _say(axis, _title(summary.axes, panel), "T⋆, rounds")
        totals = [cell.fields.get("rounds") for cell in summary.cells[panel].values()]
        if total := max((t for t in totals if t is not None), default=None):  # None: pooled
            axis.set_xlim(-0.03 * total, 1.03 * total)
    return _finish(figure, axes, "final test accuracy, %", len(lines))


def _error_bars(axis: Axes, points: Sequence[tuple[float, Cell]], color: str, name: str) -> None:
    means = [100 * (c.mean or 0) for _, c in points]
    stds = [100 * (c.std or 0) for _, c in points]
    at = [x for x, _ in points]
    axis.errorbar(at, means, yerr=stds, color=color, marker="o", capsize=3, label=name)


def accuracy_by_field(summary: Summary, field: str) -> Figure | None:
    """Final accuracy over α, or over E, on a logarithmic axis; a panel for each point of the rest.

    None where the field has not two values with a result.
    """
    if field not in summary.axes:
        return None
    place = summary.axes.index(field)
    rest = [name for name in summary.axes if name != field]
    panels: dict[Key, dict[Column, list[tuple[float, Cell]]]]
    panels = defaultdict(lambda: defaultdict(list))
    for key, cells in summary.cells.items():
        panel = key[:place] + key[place + 1 :]
        for column, cell in cells.items():
            if key[place] is not None and cell.mean is not None:
                panels[panel][column].append((key[place], cell))
    drawn = {p: c for p, c in panels.items() if any(len(points) > 1 for points in c.values())}
    if not drawn:
        return None
    figure, axes = layout.grid(min(len(drawn), MOST))
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(drawn, key=sort_key), strict=False):
        for column in sorted(drawn[panel], key=summary.columns.index):
            points = sorted(drawn[panel][column], key=lambda point: point[0])
            _error_bars(axis, points, colors[column], column_text(summary, column))
        _say(axis, _title(rest, panel), label(field))
        ticks = sorted({x for points in drawn[panel].values() for x, _ in points})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [field_text(field, x) for x in ticks])
        axis.minorticks_off()
        layout.uncrowd(axis)
    return _finish(figure, axes, "final test accuracy, %", len(drawn))


def wins(summary: Summary) -> Figure | None:
    """Who wins where: the best column at each α and E, and how far ahead of the next.

    A cell that lacks a trial takes no part. None where α and E do not make two places.
    """
    if not {"alpha", "local_steps"} <= set(summary.axes):
        return None
    across, down = summary.axes.index("alpha"), summary.axes.index("local_steps")
    found: dict[Key, dict[tuple[Any, Any], tuple[Column, str]]] = defaultdict(dict)
    for key, cells in summary.cells.items():
        best = marks(cells, "test_accuracy").best
        if best is None or key[across] is None or key[down] is None:
            continue
        means = sorted((c.mean or 0 for c in cells.values() if c.whole), reverse=True)
        panel = tuple(v for i, v in enumerate(key) if i not in (across, down))
        text = f"{column_text(summary, best)}\n+{100 * (means[0] - means[1]):.1f}"
        found[panel][key[across], key[down]] = (best, text)
    panels = {panel: _wrapped(places) for panel, places in found.items() if len(places) > 1}
    if not panels:
        return None
    rest = [name for i, name in enumerate(summary.axes) if i not in (across, down)]
    size = _wins_size(list(panels.values()))
    figure, axes = layout.grid(min(len(panels), MOST), share=False, size=size)
    colors = _colors(summary.columns)
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        _draw_wins(axis, panels[panel], colors)
        _say(axis, _title(rest, panel), "α")
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


def _draw_wins(axis: Axes, places: Places, colors: dict[Column, str]) -> None:
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


def searches(findings: Sequence[Finding], titles: Sequence[str]) -> Figure | None:
    """A panel for each arm: what was seen at each T*, what is believed between, and the best."""
    drawn = [(f, title) for f, title in zip(findings, titles, strict=True) if f.answer.points]
    if not drawn:
        return None
    figure, axes = layout.grid(min(len(drawn), MOST))
    for axis, (f, title) in zip(axes, drawn, strict=False):
        found, history = f.answer, [probe for probe in f.history if probe.values]
        mean, std = ([100 * v for v in values] for values in (found.mean, found.std))
        low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1.96, 1.96))
        axis.plot(found.points, mean, color=FREEZE_SHADES[2], label="belief, 95 %")
        axis.fill_between(found.points, low, high, color=FREEZE_SHADES[2], alpha=0.15, linewidth=0)
        for probe in history:
            values = [100 * v for v in probe.values.values()]
            at = [probe.freeze_round] * len(values)
            axis.plot(at, values, ".", color="#888888", markersize=4, label="a seed")
        means = [100 * math.fsum(p.values.values()) / len(p.values) for p in history]
        at = [p.freeze_round for p in history]
        axis.plot(at, means, "o", color=FREEZE_SHADES[3], label="tried, mean")
        if found.freeze_round is not None and found.low is not None and found.high is not None:
            axis.axvspan(found.low, found.high, color=FIGURE_COLORS["in"], alpha=0.12, linewidth=0)
            axis.axvline(
                found.freeze_round, color=FIGURE_COLORS["in"], linestyle="--", label="best T⋆, 90 %"
            )
        _say(axis, f"{title} ({f.standing})", "T⋆, rounds")
    axes[0].set_ylim(bottom=_floor([f for f, _ in drawn]))  # of all: they share it
    metrics = {f.arm.spec.search.metric.replace("_", " ") for f, _ in drawn}
    return _finish(figure, axes, f"{' or '.join(sorted(metrics))}, %", len(drawn))


def _floor(findings: Sequence[Finding]) -> float:
    """Percent below which only collapses lie: one must not press all else into a line."""
    values = [p.values.values() for f in findings for p in f.history if p.values]
    means = [100 * math.fsum(some) / len(some) for some in values]
    middle = statistics.median(means)
    return max(min(means), middle - 5 * (max(means) - middle + 1)) - 1


def _say(axis: Axes, title: str, below: str) -> None:
    axis.set_title(title, fontsize=layout.FONT)
    axis.set_xlabel(below)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _finish(figure: Figure, axes: Sequence[Axes], left: str, panels: int) -> Figure:
    """Name the y axis and every line once, and lay the figure out; it says what is left out."""
    for axis in axes:
        if left and axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # a grid's axis has one
            axis.set_ylabel(left)
    handles = {
        name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    more = f"the first {MOST} of {panels} settings: --where shows others" if panels > MOST else ""
    layout.fit_texts(figure, axes, handles, more)
    return figure


def _colors(columns: Sequence[Column]) -> dict[Column, str]:
    """A color for each column: its normalizer's; for fixbn, a blue that deepens with T*."""
    frozen = sorted((column for column in columns if column[0] == "fixbn"), key=sort_key)
    colors = {column: FIGURE_COLORS.get(column[0], FOREIGN) for column in columns}
    depth = LinearSegmentedColormap.from_list("depth", FREEZE_SHADES)
    for place, column in enumerate(frozen):
        colors[column] = to_hex(depth(place / max(len(frozen) - 1, 1)))
    return colors


def _freeze_round(summary: Summary, column: Column) -> int | None:
    """A column's T*, where it has one."""
    if "freeze_round" not in summary.arm_fields:
        return None
    frozen: int | None = column[1 + summary.arm_fields.index("freeze_round")]
    return frozen


def _without_freeze_round(summary: Summary, column: Column) -> Column:
    place = 1 + summary.arm_fields.index("freeze_round")
    return (*column[:place], None, *column[place + 1 :])


def _title(fields: Sequence[str], panel: Key) -> str:
    said = zip(fields, panel, strict=True)
    told = [(n, v) for n, v in said if v is not None and not (n == "centralized" and not v)]
    return ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in told)
