"""Pictures of a summary, as SVG text: by round, and accuracy by T*."""

from __future__ import annotations

import io
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedsweep.report.summary import (
    Cell,
    Curve,
    Key,
    Row,
    Summary,
    field_text,
    label,
    mean_curve,
    sort_key,
)

if TYPE_CHECKING:
    from fedsweep.report.findings import Finding

# Okabe and Ito's colours, which the colour-blind can tell apart; fixbn goes through blues by T*.
COLOURS = {
    "bn": "#D55E00",
    "gn": "#009E73",
    "ln": "#CC79A7",
    "in": "#E69F00",
    "none": "#888888",
    # Not theirs: there are more normalisers than they have colours.
    "wn": "#6A3D9A",
    "fedbn": "#8C2D04",
    "silobn": "#E31A9C",
    "ws": "#A3A500",
}
BLUES = ("#56B4E9", "#2E8BC9", "#0072B2", "#004C78", "#002A44")


ARM_FIELDS = ("freeze_round", "freeze_rule", "freeze", "gn_groups", "agc_clip")
"""What tells arms of one normaliser apart; every other axis of a sweep makes a panel."""

Curves = Mapping[str, Mapping[int, float]]
"""A measure by round, for each trial that took it."""


def arms_by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves: Curves,
    what: str = "test accuracy, %",
    scale: float = 100,
) -> str | None:
    """A panel for each point of the other axes, a line for each arm, a band of one std over seeds.

    `what` names the curves' values times `scale`. Of an arm, its finished trials; where it has
    none, those that run. None where nothing was measured yet.
    """
    fields = [name for name in summary.axes if name not in ARM_FIELDS]
    panels: dict[Key, dict[Key, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = tuple(row[name] for name in fields)
            panels[panel][_arm(summary, row)].append(row)
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    colours = _colours(list({arm: None for arms in panels.values() for arm in arms}))
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        arms = panels[panel]
        for arm in sorted(arms, key=partial(_order, summary)):
            curve = _curve(arms[arm], curves)
            _draw_arm(axis, arm, curve, colours[arm], scale, trunk=("bn", None) in arms)
        _say(axis, _title(fields, panel), "round")
    _label_left(axes, what)
    _one_legend(figure, axes)
    return _svg(figure)


def alphas_by_round(summary: Summary, rows: Sequence[Row], curves: Curves, what: str) -> str | None:
    """A panel for each arm and point of the other axes, a line for each α."""
    varying = [n for i, n in enumerate(summary.axes) if len({key[i] for key in summary.cells}) > 1]
    fields = [n for n in varying if n not in (*ARM_FIELDS, "alpha", "centralized")]
    panels: dict[tuple[Key, Key], dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]) and row["state"] in ("finished", "running"):
            panel = (_arm(summary, row), tuple(row[name] for name in fields))
            panels[panel][row["alpha"]].append(row)
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    colours = _shades({alpha for lines in panels.values() for alpha in lines})
    in_order = sorted(panels, key=lambda panel: (_order(summary, panel[0]), sort_key(panel[1])))
    for axis, (arm, point) in zip(axes, in_order, strict=False):
        lines = panels[arm, point]
        for alpha in sorted(lines, key=lambda alpha: sort_key((alpha,))):
            name = f"α = {field_text('alpha', alpha)}"
            _draw_curve(axis, _curve(lines[alpha], curves), colours[alpha], name)
        _say(axis, ", ".join(filter(None, [_arm_label(arm), _title(fields, point)])), "round")
    _label_left(axes, what)
    _one_legend(figure, axes)
    return _svg(figure)


def _shades(values: set[Any]) -> dict[Any, str]:
    """Colours that go from dark to light with the value."""
    in_order = sorted(values, key=lambda value: sort_key((value,)))
    shade, steps = colormaps["viridis"], max(len(in_order) - 1, 1)
    return {value: to_hex(shade(0.85 * i / steps)) for i, value in enumerate(in_order)}


def _curve(rows: Sequence[Row], curves: Curves) -> Curve:
    """Of the finished trials; where there is none, of those that run."""
    finished = [row for row in rows if row["state"] == "finished"]
    return mean_curve([curves[row["trial_id"]] for row in finished or rows])


def _draw_curve(axis: Axes, curve: Curve, colour: str, name: str, scale: float = 1.0) -> None:
    mean, std = ([scale * v for v in values] for values in (curve.mean, curve.std))
    low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1, 1))
    axis.plot(curve.rounds, mean, label=name, color=colour, linewidth=1.6)
    axis.fill_between(curve.rounds, low, high, color=colour, alpha=0.15, linewidth=0)


def _draw_arm(
    axis: Axes, arm: Key, curve: Curve, colour: str, scale: float, *, trunk: bool
) -> None:
    fork = max((r for r in curve.rounds if r <= (arm[1] or 0)), default=None)
    # Up to T* FIXBN is BN, bit for bit: where BN is drawn, FIXBN forks off it.
    first = curve.rounds.index(fork) if trunk and fork is not None else 0
    forked = Curve(curve.rounds[first:], curve.mean[first:], curve.std[first:])
    _draw_curve(axis, forked, colour, _arm_label(arm), scale)
    if fork:
        height = scale * curve.mean[curve.rounds.index(fork)]
        axis.plot(fork, height, "o", color=colour, markersize=4)


def accuracy_by_freeze_round(summary: Summary) -> str | None:
    """Final accuracy of fixbn over T*, with the others as lines. None where no T* has finished."""
    fields = [name for name in summary.axes if name not in ARM_FIELDS]
    lines: dict[Key, dict[Key, list[tuple[int, Cell]]]] = defaultdict(lambda: defaultdict(list))
    levels: dict[Key, dict[Key, Cell]] = defaultdict(dict)
    for columns in summary.cells.values():
        for name, cell in columns.items():
            panel = tuple(cell.fields[field] for field in fields)
            arm = _arm(summary, {**cell.fields, "normalizer": name})
            if cell.mean is None:
                continue
            if name == "fixbn" and arm[1] is not None:
                lines[panel][("fixbn", None, *arm[2:])].append((arm[1], cell))
            else:
                levels[panel][arm] = cell
    if not lines:
        return None
    figure, axes = _grid(len(lines))
    for axis, panel in zip(axes, sorted(lines, key=sort_key), strict=False):
        for number, arm in enumerate(sorted(lines[panel], key=sort_key)):
            points = sorted(lines[panel][arm], key=lambda point: point[0])
            axis.errorbar(
                [t for t, _ in points],
                [100 * (c.mean or 0) for _, c in points],
                yerr=[100 * (c.std or 0) for _, c in points],
                color=BLUES[(2 + 2 * number) % len(BLUES)],
                marker="o",
                capsize=3,
                label=_arm_label(arm),
            )
        for arm in sorted(levels[panel], key=partial(_order, summary)):
            height = 100 * (levels[panel][arm].mean or 0)
            colour, name = COLOURS.get(arm[0], "#000000"), _arm_label(arm)
            axis.axhline(height, color=colour, linestyle="--", label=name)
        _say(axis, _title(fields, panel), "T⋆, rounds")
    _label_left(axes, "final test accuracy, %")
    _one_legend(figure, axes)
    return _svg(figure)


def searches(findings: Sequence[Finding], titles: Sequence[str]) -> str | None:
    """A panel for each arm: what was seen at each T*, what is believed between, and the best."""
    drawn = [(f, title) for f, title in zip(findings, titles, strict=True) if f.answer.points]
    if not drawn:
        return None
    figure, axes = _grid(len(drawn))
    for axis, (f, title) in zip(axes, drawn, strict=False):
        found, history = f.answer, [probe for probe in f.history if probe.values]
        mean, std = ([100 * v for v in values] for values in (found.mean, found.std))
        low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1.96, 1.96))
        axis.plot(found.points, mean, color=BLUES[2], label="belief, 95 %")
        axis.fill_between(found.points, low, high, color=BLUES[2], alpha=0.15, linewidth=0)
        for probe in history:
            values = [100 * v for v in probe.values.values()]
            at = [probe.freeze_round] * len(values)
            axis.plot(at, values, ".", color="#888888", markersize=4, label="a seed")
        means = [100 * math.fsum(p.values.values()) / len(p.values) for p in history]
        at = [p.freeze_round for p in history]
        axis.plot(at, means, "o", color=BLUES[3], label="tried, mean")
        if found.freeze_round is not None and found.low is not None and found.high is not None:
            axis.axvspan(found.low, found.high, color=COLOURS["in"], alpha=0.12, linewidth=0)
            axis.axvline(
                found.freeze_round, color=COLOURS["in"], linestyle="--", label="best T⋆, 90 %"
            )
        _say(axis, f"{title} ({f.standing})", "T⋆, rounds")
    axes[0].set_ylim(bottom=_floor([f for f, _ in drawn]))  # of all: they share it
    metrics = {f.arm.spec.search.metric.replace("_", " ") for f, _ in drawn}
    _label_left(axes, f"{' or '.join(sorted(metrics))}, %")
    _one_legend(figure, axes)
    return _svg(figure)


def _floor(findings: Sequence[Finding]) -> float:
    """Percent below which only collapses lie: one must not press all else into a line."""
    values = [p.values.values() for f in findings for p in f.history if p.values]
    means = [100 * math.fsum(some) / len(some) for some in values]
    middle = statistics.median(means)
    return max(min(means), middle - 5 * (max(means) - middle + 1)) - 1


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    flat = [axis for line in axes for axis in line]
    for axis in flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for spare in flat[panels:]:
        spare.set_visible(False)
    return figure, flat


def _say(axis: Axes, title: str, below: str) -> None:
    axis.set_title(fill(title, 46), fontsize=10)
    axis.set_xlabel(below)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _label_left(axes: Sequence[Axes], text: str) -> None:
    for axis in axes:
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # a grid's axis has one
            axis.set_ylabel(text)


def _one_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    handles = {
        name: h for axis in axes for h, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False
    )


def _colours(arms: Sequence[Key]) -> dict[Key, str]:
    """A colour for each arm: its normaliser's; for fixbn, a blue that deepens with T*."""
    frozen = sorted((arm for arm in arms if arm[0] == "fixbn"), key=sort_key)
    colours = {arm: COLOURS.get(arm[0], "#000000") for arm in arms}
    depth = LinearSegmentedColormap.from_list("depth", BLUES)
    for place, arm in enumerate(frozen):
        colours[arm] = to_hex(depth(place / max(len(frozen) - 1, 1)))
    return colours


def _order(summary: Summary, arm: Key) -> tuple[Any, ...]:
    """Normalisers as in the table, then T* and the rest."""
    return (summary.normalizers.index(arm[0]), *sort_key(arm[1:]))


def _arm(summary: Summary, row: Row) -> Key:
    """(normaliser, T*), and whatever else of an arm varies in the sweep."""
    more = [row[name] for name in ARM_FIELDS[1:] if name in summary.axes]
    return (row["normalizer"], row["freeze_round"], *more)


def _arm_label(arm: Key) -> str:
    t_star = f"T⋆={arm[1]}" if arm[1] is not None else None
    more = [str(value) for value in arm[2:] if value not in (None, "given")]
    return " ".join([arm[0].upper(), *([t_star] if t_star else []), *more])


def _title(fields: Sequence[str], panel: Key) -> str:
    said = zip(fields, panel, strict=True)
    told = [(n, v) for n, v in said if v is not None and not (n == "centralized" and not v)]
    return ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in told)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
