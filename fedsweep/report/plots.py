"""Pictures of a summary, as SVG text: accuracy by round, accuracy by T*."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from fedsweep.report.summary import (
    Cell,
    Key,
    Row,
    Summary,
    label,
    mean_curve,
    sort_key,
    value_text,
)

# Okabe and Ito's colours, which the colour-blind can tell apart; fixbn goes through blues by T*.
COLOURS = {"bn": "#D55E00", "gn": "#009E73", "ln": "#CC79A7", "in": "#E69F00", "none": "#666666"}
BLUES = ("#56B4E9", "#2E8BC9", "#0072B2", "#004C78", "#002A44")


ARM_FIELDS = ("freeze_round", "freeze", "gn_groups")
"""What tells arms of one normaliser apart; every other axis of a sweep makes a panel."""


def accuracy_by_round(
    summary: Summary, rows: Sequence[Row], curves: Mapping[str, Mapping[int, float]]
) -> str | None:
    """A panel for each point of the other axes, a line for each arm, a band of one std over seeds.

    Of an arm, its finished trials; where it has none, those that run. None where nothing was
    evaluated yet.
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
    for axis, panel in zip(axes, sorted(panels, key=sort_key), strict=False):
        arms = panels[panel]
        colours = _colours(list(arms))
        for arm in sorted(arms, key=sort_key):
            _draw_arm(axis, arm, arms[arm], curves, colours[arm], trunk=("bn", None) in arms)
        axis.set_title(_title(fields, panel), fontsize=10)
        axis.set_xlabel("round")
    _label_left(axes, "test accuracy, %")
    _one_legend(figure, axes)
    return _svg(figure)


def _draw_arm(
    axis: Axes,
    arm: Key,
    rows: Sequence[Row],
    curves: Mapping[str, Mapping[int, float]],
    colour: str,
    *,
    trunk: bool,
) -> None:
    finished = [row for row in rows if row["state"] == "finished"]
    curve = mean_curve([curves[row["trial_id"]] for row in finished or rows])
    fork = max((r for r in curve.rounds if r <= (arm[1] or 0)), default=None)
    # Up to T* FIXBN is BN, bit for bit: where BN is drawn, FIXBN forks off it.
    first = curve.rounds.index(fork) if trunk and fork is not None else 0
    mean, std = ([100 * v for v in values[first:]] for values in (curve.mean, curve.std))
    low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1, 1))
    at = curve.rounds[first:]
    axis.plot(at, mean, label=_arm_label(arm), color=colour, linewidth=1.6)
    axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    if fork:
        height = mean[curve.rounds.index(fork) - first]
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
            if name == "fixbn":
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
        for arm, cell in sorted(levels[panel].items(), key=lambda item: sort_key(item[0])):
            colour = COLOURS.get(arm[0], "#000000")
            name = _arm_label(arm)
            axis.axhline(100 * (cell.mean or 0), color=colour, linestyle="--", label=name)
        axis.set_title(_title(fields, panel), fontsize=10)
        axis.set_xlabel("T⋆, rounds")
    _label_left(axes, "final test accuracy, %")
    _one_legend(figure, axes)
    return _svg(figure)


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


def _arm(summary: Summary, row: Row) -> Key:
    """(normaliser, T*), and whatever else of an arm varies in the sweep."""
    more = [row[name] for name in ARM_FIELDS[1:] if name in summary.axes]
    return (row["normalizer"], row["freeze_round"], *more)


def _arm_label(arm: Key) -> str:
    t_star = f"T⋆={arm[1]}" if arm[1] is not None else None
    more = [str(value) for value in arm[2:] if value is not None]
    return " ".join([arm[0].upper(), *([t_star] if t_star else []), *more])


def _title(fields: Sequence[str], panel: Key) -> str:
    told = [(n, v) for n, v in zip(fields, panel, strict=True) if v is not None]
    return ", ".join(f"{label(name)} = {value_text(value)}" for name, value in told)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
