"""Pictures of a summary, as SVG text: accuracy by round, accuracy by T*."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsweep.report.summary import Cell, Row, Summary, label, mean_curve, sort_key
from fedsweep.report.tables import axis_text

# Okabe and Ito's colours, which the colour-blind can tell apart; fixbn goes through blues by T*.
COLOURS = {"bn": "#D55E00", "gn": "#009E73", "ln": "#CC79A7", "in": "#E69F00", "none": "#666666"}
BLUES = ("#56B4E9", "#2E8BC9", "#0072B2", "#004C78", "#002A44")


def accuracy_by_round(rows: Sequence[Row], curves: Mapping[str, Mapping[int, float]]) -> str | None:
    """A panel for each (alpha, E, momentum …), a line for each arm and T*, a band of one std over
    seeds. None where nothing was evaluated yet.
    """
    panels: dict[Any, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if curves.get(row["trial_id"]):
            key = (row["alpha"], row["local_steps"], row["momentum"])
            panels[key][row["normalizer"], row["freeze_round"]].append(row["trial_id"])
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    for axis, key in zip(axes, sorted(panels, key=sort_key), strict=False):
        colours = _colours(list(panels[key]))
        trunk = ("bn", None) in panels[key]
        for arm in sorted(panels[key], key=sort_key):
            # Up to T* FIXBN is BN, bit for bit: where BN is drawn, FIXBN forks off it.
            fork = arm[1] if trunk and arm[0] == "fixbn" else None
            found = [_from(curves[trial], fork or 0) for trial in panels[key][arm]]
            curve = mean_curve(found)
            mean, std = ([100 * v for v in values] for values in (curve.mean, curve.std))
            low, high = ([m + s * d for m, d in zip(mean, std, strict=True)] for s in (-1, 1))
            axis.plot(curve.rounds, mean, label=_arm(*arm), color=colours[arm], linewidth=1.6)
            axis.fill_between(curve.rounds, low, high, color=colours[arm], alpha=0.15, linewidth=0)
            if curve.rounds and arm[1]:
                axis.plot(curve.rounds[0], mean[0], "o", color=colours[arm], markersize=4)
        axis.set_title(_panel(key), fontsize=10)
        axis.set_xlabel("round")
    _label_left(axes, "test accuracy, %")
    _one_legend(figure, axes)
    return _svg(figure)


def accuracy_by_freeze_round(summary: Summary) -> str | None:
    """Final accuracy of fixbn over T*, with BN and GN as lines. None where no T* has finished."""
    lines: dict[Any, list[tuple[int, Cell]]] = defaultdict(list)
    level: dict[Any, dict[str, Cell]] = defaultdict(dict)
    t_star = summary.axes.index("freeze_round")
    for key, columns in summary.cells.items():
        rest = key[:t_star] + key[t_star + 1 :]
        for name, cell in columns.items():
            if cell.mean is None:
                continue
            if name == "fixbn":
                lines[rest].append((key[t_star], cell))
            else:
                level[rest][name] = cell
    if not lines:
        return None
    figure, axes = _grid(len(lines))
    names = [name for name in summary.axes if name != "freeze_round"]
    for axis, rest in zip(axes, sorted(lines, key=sort_key), strict=False):
        points = sorted(lines[rest], key=lambda point: point[0])
        axis.errorbar(
            [t for t, _ in points],
            [100 * (c.mean or 0) for _, c in points],
            yerr=[100 * (c.std or 0) for _, c in points],
            color=BLUES[2],
            marker="o",
            capsize=3,
            label="FIXBN",
        )
        for name, cell in level[rest].items():
            colour = COLOURS.get(name, "#000000")
            axis.axhline(100 * (cell.mean or 0), color=colour, linestyle="--", label=name.upper())
        told = dict(zip(names, rest, strict=True))
        axis.set_title(_panel((told["alpha"], told["local_steps"], told["momentum"])), fontsize=10)
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


def _from(curve: Mapping[int, float], first: int) -> dict[int, float]:
    return {round: value for round, value in curve.items() if round >= first}


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


def _colours(arms: Sequence[tuple[str, int | None]]) -> dict[Any, str]:
    frozen = sorted((arm for arm in arms if arm[0] == "fixbn"), key=sort_key)
    colours = {arm: COLOURS.get(arm[0], "#000000") for arm in arms}
    for place, arm in enumerate(frozen):
        colours[arm] = BLUES[place * (len(BLUES) - 1) // max(len(frozen) - 1, 1)]
    return colours


def _arm(normalizer: str, freeze_round: int | None) -> str:
    return normalizer.upper() + (f" T⋆={freeze_round}" if freeze_round is not None else "")


def _panel(key: Sequence[Any]) -> str:
    names = ("alpha", "local_steps", "momentum")
    return ", ".join(
        f"{label(n)} = {axis_text(v)}" for n, v in zip(names, key, strict=True) if v is not None
    )


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
