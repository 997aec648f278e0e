"""Figures of a summary: curves by round, and accuracy by T*, α or E."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from fedsweep.appearance import FREEZE_SHADES, FREEZE_SHAPES, ArmStyle, arm_styles, shade
from fedsweep.fields import label
from fedsweep.measures import MEASURES, Measure
from fedsweep.reports import layout
from fedsweep.reports.figure_data import Numbers, Points
from fedsweep.reports.freeze_rounds import (
    SHARE,
    FreezePanel,
    at_freeze_round,
    by_freeze_round,
    fork_of,
    freeze_round,
    is_trunk,
    place_of,
    without_freeze_round,
)
from fedsweep.reports.grouping import Cell, MeanCurve, Summary, column_text, mean_curve
from fedsweep.reports.labels import ColumnKey, Row, RowKey, field_text, sort_key
from fedsweep.reports.panels import (
    DASHES,
    FORK,
    Panels,
    Plot,
    Titles,
    field_texts,
    marker_of,
    styles_of,
)
from fedsweep.store.rows import Curves

ACCURACY = "final test accuracy, %"

AXES = {"local_steps": "E, local steps"}
"""The names of x axes that are more than the symbol of the field."""


def arms_by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves: Curves,
    measure: Measure = MEASURES["test_accuracy"],
    width: float | None = None,
) -> Plot | None:
    """Draw a panel for each row of the summary, with a line for each arm.

    A band shows one standard deviation over seeds. A line is the mean of the arm's finished trials,
    or of its running trials if none has finished. `width` is that of the figure, in inches.
    Returns None if no trial has values yet.
    """
    arms: dict[RowKey, dict[ColumnKey, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = tuple(row[name] for name in summary.axes)
            arms[panel][summary.column(row)].append(row)
    if not arms:
        return None
    titles, styles = Titles.of(summary.axes, arms), styles_of(summary)
    panels, points = Panels(len(arms), width), Points(summary, "round", measure.name)
    for axis, panel in panels.over(sorted(arms, key=sort_key)):
        bn = [row for c in arms[panel] if c[0] == "bn" for row in _averaged(arms[panel][c])]
        for column in _in_order(summary, arms[panel]):
            n, curve = _curve(arms[panel][column], curves)
            trunk = column[0] == "fixbn" and is_trunk(bn, _averaged(arms[panel][column]))
            is_before = _is_before_freeze(arms[panel][column], curve)
            if trunk and is_before:
                continue
            fork = None if is_before else _fork(arms[panel][column], curve)
            # Up to T*, FIXBN equals BN bit for bit. If that BN is drawn, FIXBN's line begins at T*.
            shown = _from_round(curve, fork) if trunk and fork else curve
            name, number = column_text(summary, column), summary.columns.index(column)
            panels.curve(axis, _scaled(shown, measure.scale), name, styles[column], number)
            if fork:
                height = measure.scale * curve.mean[curve.rounds.index(fork)]
                _draw_fork(axis, fork, height, styles[column])
            numbers = [(n, m, s) for m, s in zip(shown.mean, shown.std, strict=True)]
            point = dict(zip(summary.axes, panel, strict=True))
            points.add_curve(column, point, shown.rounds, numbers)
        panels.name(axis, titles.of_panel(panel), "round")
    return Plot(panels.finished(measure.heading, _names(summary)), points.data(), titles.note)


def alphas_by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves: Curves,
    measure: Measure,
    width: float | None = None,
) -> Plot | None:
    """Draw a panel for each arm and point of the axes other than α, with a line for each α."""
    varying = [n for i, n in enumerate(summary.axes) if len({key[i] for key in summary.cells}) > 1]
    fields = [n for n in varying if n not in ("alpha", "centralized")]
    lines: dict[tuple[ColumnKey, RowKey], dict[Any, list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = (summary.column(row), tuple(row[name] for name in fields))
            lines[panel][row["alpha"]].append(row)
    if not lines:
        return None
    alphas = sorted({a for values in lines.values() for a in values}, key=lambda a: sort_key((a,)))
    styles = _alpha_styles(alphas)
    names = {alpha: f"α = {field_text('alpha', alpha)}" for alpha in alphas}
    panels, points = Panels(len(lines), width), Points(summary, "round", measure.name)
    in_order = sorted(lines, key=lambda p: (summary.columns.index(p[0]), sort_key(p[1])))
    for axis, (column, key) in panels.over(in_order):
        for number, alpha in enumerate(alphas):
            if alpha in lines[column, key]:
                n, curve = _curve(lines[column, key][alpha], curves)
                panels.curve(
                    axis, _scaled(curve, measure.scale), names[alpha], styles[alpha], number
                )
                numbers = [(n, m, s) for m, s in zip(curve.mean, curve.std, strict=True)]
                point = dict(zip(fields, key, strict=True)) | {"alpha": alpha}
                points.add_curve(column, point, curve.rounds, numbers)
        point_text = field_texts(dict(zip(fields, key, strict=True)))
        texts = filter(None, [column_text(summary, column), point_text])
        panels.name(axis, ", ".join(texts), "round")
    return Plot(panels.finished(measure.heading, list(names.values())), points.data())


def _alpha_styles(alphas: Sequence[Any]) -> dict[Any, ArmStyle]:
    """Return a style for each α. Colors go from dark to light."""
    colors, steps = colormaps["viridis"], max(len(alphas) - 1, 1)
    (like,) = arm_styles(["fixbn"])
    return {
        alpha: replace(
            like,
            color=to_hex(colors(0.85 * i / steps)),
            marker=FREEZE_SHAPES[i % len(FREEZE_SHAPES)],
        )
        for i, alpha in enumerate(alphas)
    }


def _curve(rows: Sequence[Row], curves: Curves) -> tuple[int, MeanCurve]:
    """Return the number of averaged trials, and their mean.

    They are the finished trials, or the running ones if none has finished.
    """
    averaged = _averaged(rows)
    return len(averaged), mean_curve([curves[row["trial_id"]] for row in averaged])


def _averaged(rows: Sequence[Row]) -> Sequence[Row]:
    return [row for row in rows if row["state"] == "finished"] or rows


def _scaled(curve: MeanCurve, scale: float) -> MeanCurve:
    mean, std = (tuple(scale * v for v in values) for values in (curve.mean, curve.std))
    return MeanCurve(curve.rounds, mean, std)


def _from_round(curve: MeanCurve, first: int) -> MeanCurve:
    start = curve.rounds.index(first)
    return MeanCurve(curve.rounds[start:], curve.mean[start:], curve.std[start:])


def _fork(rows: Sequence[Row], curve: MeanCurve) -> int | None:
    """Return the last round of a curve that is not after T*, if there is one."""
    frozen = fork_of(rows) or 0
    return max((r for r in curve.rounds if r <= frozen), default=None)


def _is_before_freeze(rows: Sequence[Row], curve: MeanCurve) -> bool:
    """Return whether the trials still run, and have not reached T*: their line is still BN's."""
    frozen = fork_of(rows) or 0
    is_over = any(row["state"] == "finished" for row in rows)
    return not is_over and max(curve.rounds, default=0) < frozen


def _draw_fork(axis: Axes, x: float, y: float, style: ArmStyle) -> None:
    edge = {"markeredgecolor": "black", "markeredgewidth": layout.THIN}
    axis.plot(x, y, linestyle="none", zorder=3, **marker_of(style, FORK) | edge)


def accuracy_by_freeze_round(summary: Summary, width: float | None = None) -> Plot | None:
    """Draw the final accuracy of FIXBN over T*, and that of the others as level lines.

    Returns None if no trial with a T* has finished.
    """
    shown = by_freeze_round(summary)
    if not shown:
        return None
    titles = Titles.of(summary.axes, shown)
    panels = Panels(len(shown), width)
    more = [SHARE] if summary.has_shares else []
    points = Points(summary, "freeze_round", "test_accuracy", *more)
    for axis, key in panels.over(list(shown)):
        cells = {c: cell for c, cell in summary.cells[key].items() if cell.mean is not None}
        for column in _in_order(summary, cells):
            point = dict(zip(summary.axes, key, strict=True))
            share = [freeze_round(summary, column)] if more else []
            points.add(column, point, _numbers(cells[column]), *share)
        _draw_by_freeze_round(panels, axis, summary, shown[key])
        panels.name(axis, titles.of_panel(key), shown[key].heading)
    order = [column_text(summary, without_freeze_round(summary, c)) for c in summary.columns]
    return Plot(panels.finished(ACCURACY, order), points.data(), titles.note)


def _draw_by_freeze_round(panels: Panels, axis: Axes, summary: Summary, panel: FreezePanel) -> None:
    places = [place_of(frozen) for line in panel.lines.values() for frozen, _ in line]
    last = panel.end or max(places)
    axis.set_xlim(-0.03 * last - 0.1, 1.03 * last + 0.1)
    styles, frozen, levels = styles_of(summary), list(panel.lines), list(panel.levels)
    first = {line: at_freeze_round(summary, line, panel.lines[line][0][0]) for line in frozen}
    for line in sorted([*frozen, *levels], key=lambda c: summary.columns.index(first.get(c, c))):
        name = column_text(summary, line)
        if line in first:
            points = panel.lines[line]
            each = [
                (place_of(t), cell, styles[at_freeze_round(summary, line, t)]) for t, cell in points
            ]
            depth = (frozen.index(line) + 1) / (len(frozen) + 1)
            _draw_freeze_rounds(panels, axis, each, name, depth)
        else:
            arm, cell = (name, styles[line]), panel.levels[line]
            _draw_level(panels, axis, axis.get_xlim(), cell, arm, levels.index(line))


def _draw_level(
    panels: Panels,
    axis: Axes,
    span: tuple[float, float],
    cell: Cell,
    arm: tuple[str, ArmStyle],
    number: int,
) -> None:
    """Draw the accuracy of an arm without a T* as a level line with one marker."""
    (left, right), (name, style) = span, arm
    height = 100 * (cell.mean or 0)
    place = left + (right - left) * (0.93 - 0.09 * (number % 10))
    axis.plot(
        (left, place, right),
        (height, height, height),
        color=style.color,
        linestyle=DASHES[style.dash],
        linewidth=layout.LINE,
        label=name,
        markevery=[1],
        **marker_of(style),
    )
    panels.end(axis, name, style, right, height)


def _draw_freeze_rounds(
    panels: Panels,
    axis: Axes,
    points: Sequence[tuple[float, Cell, ArmStyle]],
    name: str,
    depth: float,
) -> None:
    """Draw FIXBN's line over T*. The marker of each T* is that of its curve by round."""
    (like,) = arm_styles(["fixbn"])
    style = replace(like, color=shade(FREEZE_SHADES, depth))
    bars = [(t, *_percent(cell)) for t, cell, _ in points]
    panels.error_bars(axis, bars, name, style)
    for (t, mean, _), (_, _, own) in zip(bars, points, strict=True):
        axis.plot(t, mean, linestyle="none", zorder=3, **marker_of(own, FORK))


def accuracy_by_field(summary: Summary, field: str, width: float | None = None) -> Plot | None:
    """Draw the final accuracy over α or E on a logarithmic axis.

    Each point of the other axes has a panel. Returns None if no arm has results at two values.
    """
    if field not in summary.axes:
        return None
    place = summary.axes.index(field)
    rest = [name for name in summary.axes if name != field]
    arms: dict[RowKey, dict[ColumnKey, list[tuple[Any, Cell]]]]
    arms = defaultdict(lambda: defaultdict(list))
    for key, cells in summary.cells.items():
        panel = key[:place] + key[place + 1 :]
        for column, cell in cells.items():
            if key[place] is not None and cell.mean is not None:
                arms[panel][column].append((key[place], cell))
    drawn = {p: c for p, c in arms.items() if any(len(points) > 1 for points in c.values())}
    if not drawn:
        return None
    titles, styles = Titles.of(rest, drawn), styles_of(summary)
    panels, points = Panels(len(drawn), width), Points(summary, field, "test_accuracy")
    for axis, panel in panels.over(sorted(drawn, key=sort_key)):
        ticks = sorted({x for cells in drawn[panel].values() for x, _ in cells})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [field_text(field, x) for x in ticks])
        axis.minorticks_off()
        for column in _in_order(summary, drawn[panel]):
            in_order = sorted(drawn[panel][column], key=lambda point: point[0])
            bars = [(x, *_percent(cell)) for x, cell in in_order]
            panels.error_bars(axis, bars, column_text(summary, column), styles[column])
            for x, cell in in_order:
                point = dict(zip(rest, panel, strict=True)) | {field: x}
                points.add(column, point, _numbers(cell))
        panels.name(axis, titles.of_panel(panel), AXES.get(field, label(field)))
    return Plot(panels.finished(ACCURACY, _names(summary)), points.data(), titles.note)


def _names(summary: Summary) -> list[str]:
    """Return the name of each arm, in the order of the table's columns."""
    return [column_text(summary, column) for column in summary.columns]


def _in_order(summary: Summary, columns: Iterable[ColumnKey]) -> list[ColumnKey]:
    """Return columns in the order of the table."""
    return sorted(columns, key=summary.columns.index)


def _percent(cell: Cell) -> tuple[float, float]:
    """Return the mean and the standard deviation of a cell's accuracy, in percent."""
    return 100 * (cell.mean or 0), 100 * (cell.std or 0)


def _numbers(cell: Cell) -> Numbers:
    accuracy = cell.measure("test_accuracy")
    return accuracy.n, accuracy.mean, accuracy.std
