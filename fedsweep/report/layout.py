"""The layout of a figure: panels of a fixed size, and a figure that grows around their texts.

Ticks depend on the size of a panel alone, so one measurement is enough. Matplotlib's constrained
layout measures several times, again for each file, and lets a wide legend leave the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import SubplotSpec
from matplotlib.textpath import text_to_path

POINTS = 72.0
"""Points of an inch."""
PANEL = (3.4, 2.35)
"""Inches of a panel's data area."""
MOST_WIDE = 13.0
"""Inches of a figure's width, unless one panel is wider."""
FONT = 10.0
"""Points of titles, labels and legends."""
DPI = 100.0
"""Dots of an inch while a figure is measured. A file may have more."""
PAD = 0.08
"""Inches around a figure, and between its parts."""
MOST_COLUMNS = 6
"""Columns of a legend."""
HANDLE, SPACING, BORDER = 2.8, 2.0, 0.4
"""Widths in a legend, in units of its font: a line with its gap, between columns, the border."""


@dataclass(frozen=True)
class _Overhang:
    """Inches by which the texts of panels stick out of them, at most."""

    left: float
    inner: float
    """The same as `left`, of the panels that have a panel to their left."""
    right: float
    below: float
    above: float


def width(text: str, points: float = FONT) -> float:
    """Return the inches that the widest line of a text takes."""
    font = FontProperties(size=points)
    lines = (line for line in text.split("\n") if line)
    sizes = (text_to_path.get_text_width_height_descent(x, font, ismath=False) for x in lines)
    return max((size[0] for size in sizes), default=0.0) / POINTS


def wrapped(text: str, inches: float, points: float = FONT) -> str:
    """Return the text in lines that are no wider; a word that is wider is broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if width(joined, points) <= inches:
            lines[-1] = joined
            continue
        pieces = _broken(word, inches, points)
        lines = [line for line in lines if line] + pieces
    return "\n".join(lines)


def _broken(word: str, inches: float, points: float) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and width(pieces[-1] + letter, points) > inches:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """Return how many columns a legend of these labels can have in a width, at least one."""
    widths = [width(label) * POINTS / FONT for label in labels]
    for columns in range(min(MOST_COLUMNS, len(labels)), 1, -1):
        if _legend_width(widths, columns) * FONT / POINTS <= inches:
            return columns
    return 1


def _legend_width(widths: Sequence[float], columns: int) -> float:
    """Return the width in units of the font. A legend fills its columns first."""
    rest, start, total = len(widths), 0, 2 * BORDER + SPACING * (columns - 1)
    for left in range(columns, 0, -1):
        rows = -(-rest // left)
        total += HANDLE + max(widths[start : start + rows])
        start, rest = start + rows, rest - rows
    return total


def grid(
    panels: int, *, share: bool = True, size: tuple[float, float] = PANEL
) -> tuple[Figure, list[Axes]]:
    """Return a figure of as many panels, each of `size` inches; `settle` gives it its own size."""
    fitting = max(1, int((MOST_WIDE - 1.0) // (size[0] + 0.4)))
    columns = min(panels, 2 if panels == 4 else 3, fitting)
    rows = -(-panels // columns)
    # Without gaps: for now only the size of the panels counts.
    figure = Figure(figsize=(columns * size[0], rows * size[1]), dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    flat = [axis for line in axes for axis in line]
    for axis in flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for spare in flat[panels:]:
        spare.set_visible(False)
    return figure, flat


def fit_texts(
    figure: Figure, axes: Sequence[Axes], handles: Mapping[str, Any], heading: str = ""
) -> None:
    """Wrap every text to its panel, then size the figure so that all of them lie inside it."""
    shown = [axis for axis in axes if axis.get_visible()]
    spec = _spec(shown[0]).get_gridspec()
    rows, columns = spec.nrows, spec.ncols
    wide, high = figure.get_figwidth() / columns, figure.get_figheight() / rows
    over = _overhang(shown, (wide, high))
    gap = max(over.inner + over.right + PAD, 0.25)
    inner = columns * wide + (columns - 1) * gap
    total = over.left + inner + over.right + 2 * PAD
    title = wrapped(heading, total - 2 * PAD)
    top = PAD + (title.count("\n") + 1) * 1.4 * FONT / POINTS if title else 0.0
    bottom = _add_legend(figure, handles, total - 2 * PAD)
    between = over.above + over.below + 1.5 * PAD
    tall = top + PAD + rows * high + (rows - 1) * between + over.above + over.below + bottom + PAD
    figure.set_size_inches(total, tall)
    figure.subplots_adjust(
        left=(PAD + over.left) / total,
        right=(PAD + over.left + inner) / total,
        bottom=(PAD + bottom + over.below) / tall,
        top=1 - (PAD + top + over.above) / tall,
        wspace=gap / wide,
        hspace=between / high,
    )
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.5, PAD / 2 / tall), figure.transFigure)
    if title:
        figure.suptitle(title, fontsize=FONT, y=1 - PAD / tall, va="top", parse_math=False)


def uncrowd(axis: Axes) -> None:
    """Turn the labels of an x axis if they would overlap."""
    renderer = _renderer()
    boxes = [label.get_window_extent(renderer) for label in axis.get_xticklabels()]
    if any(right.x0 < left.x1 + 3 for left, right in pairwise(boxes)):
        axis.tick_params(axis="x", labelrotation=90)


def _renderer() -> RendererAgg:
    """Return what measures texts; the size of its canvas does not matter."""
    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]  # matplotlib gives it no types


def _spec(axis: Axes) -> SubplotSpec:
    spec = axis.get_subplotspec()
    assert spec is not None  # a grid's axis has one
    return spec


def _overhang(shown: Sequence[Axes], size: tuple[float, float]) -> _Overhang:
    """Wrap the texts of each panel to its size, and measure how far they stick out of it."""
    renderer = _renderer()
    first, inner, right, below, above = [0.0], [0.0], [0.0], [0.0], [0.0]
    for axis in shown:
        for text, inches in (
            (axis.title, size[0]),
            (axis.xaxis.label, size[0]),
            (axis.yaxis.label, size[1]),
        ):
            text.set_parse_math(False)
            text.set_text(wrapped(text.get_text(), inches, float(text.get_fontsize())))
        panel, whole = axis.get_window_extent(), axis.get_tightbbox(renderer)
        assert whole is not None  # a visible axis has one
        (first if _spec(axis).is_first_col() else inner).append(panel.x0 - whole.x0)
        right.append(whole.x1 - panel.x1)
        below.append(panel.y0 - whole.y0)
        above.append(whole.y1 - panel.y1)
    return _Overhang(*(max(side) / DPI for side in (first, inner, right, below, above)))


def _add_legend(figure: Figure, handles: Mapping[str, Any], inches: float) -> float:
    """Name the lines at the bottom, in as many columns as fit; return the legend's height."""
    if not handles:
        return 0.0
    narrow = inches - (HANDLE + 2 * BORDER) * FONT / POINTS
    labels = [wrapped(name, narrow) for name in handles]
    legend = figure.legend(
        handles.values(),
        labels,
        loc="lower center",
        ncols=legend_columns(labels, inches),
        frameon=False,
        fontsize=FONT,
        borderaxespad=0,
        handlelength=2.0,
        handletextpad=HANDLE - 2.0,
        columnspacing=SPACING,
        borderpad=BORDER,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend.get_window_extent(_renderer()).height / DPI + PAD
