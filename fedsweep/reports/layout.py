"""The layout of a figure: panels of a fixed size, and a figure that grows around their texts.

Ticks depend only on the size of a panel, so one measurement is enough. Matplotlib's constrained
layout measures several times for each file, and a wide legend may extend beyond the figure.
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
"""Points per inch."""
PANEL = (3.4, 2.35)
"""The width and height of a panel's data area, in inches."""
MOST_WIDE = 13.0
"""The most inches of a figure's width, unless one panel is wider."""
FONT = 10.0
"""The font size of titles, labels and legends, in points."""
DPI = 100.0
"""Dots per inch while a figure is measured. A file may have more."""
PAD = 0.08
"""Inches around a figure, and between its parts."""
MOST_COLUMNS = 6
"""The most columns of a legend."""
HANDLE, SPACING, BORDER = 2.8, 2.0, 0.4
"""Widths in a legend, in units of its font size.

They are a line with its gap, the space between columns, and the border.
"""


@dataclass(frozen=True)
class _Overhang:
    """The most inches by which the texts of panels extend beyond the panels."""

    left: float
    inner: float
    """The same on the left, for panels that have a panel to their left."""
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
    """Wrap the text into lines of this width. A word that is wider is broken."""
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
    """Return the number of columns of a legend that fits the width, at least 1."""
    widths = [width(label) * POINTS / FONT for label in labels]
    for columns in range(min(MOST_COLUMNS, len(labels)), 1, -1):
        if _legend_width(widths, columns) * FONT / POINTS <= inches:
            return columns
    return 1


def _legend_width(widths: Sequence[float], columns: int) -> float:
    """Return the width of a legend in units of its font size. A legend fills its columns first."""
    rest, start, total = len(widths), 0, 2 * BORDER + SPACING * (columns - 1)
    for left in range(columns, 0, -1):
        rows = -(-rest // left)
        total += HANDLE + max(widths[start : start + rows])
        start, rest = start + rows, rest - rows
    return total


def grid(
    panels: int, *, share: bool = True, size: tuple[float, float] = PANEL
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of `size` inches. `fit_texts` sets the size of the figure."""
    fitting = max(1, int((MOST_WIDE - 1.0) // (size[0] + 0.4)))
    columns = min(panels, 2 if panels == 4 else 3, fitting)
    rows = -(-panels // columns)
    # There are no gaps yet, because only the size of the panels matters here.
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
    """Wrap every text to its panel, then set the size of the figure so that all texts fit."""
    shown = [axis for axis in axes if axis.get_visible()]
    spec = _spec(shown[0]).get_gridspec()
    rows, columns = spec.nrows, spec.ncols
    wide, high = figure.get_figwidth() / columns, figure.get_figheight() / rows
    overhang = _overhang(shown, (wide, high))
    gap = max(overhang.inner + overhang.right + PAD, 0.25)
    inner = columns * wide + (columns - 1) * gap
    total = overhang.left + inner + overhang.right + 2 * PAD
    title = wrapped(heading, total - 2 * PAD)
    top = PAD + (title.count("\n") + 1) * 1.4 * FONT / POINTS if title else 0.0
    bottom = _add_legend(figure, handles, total - 2 * PAD)
    between = overhang.above + overhang.below + 1.5 * PAD
    tall = (
        top
        + PAD
        + rows * high
        + (rows - 1) * between
        + overhang.above
        + overhang.below
        + bottom
        + PAD
    )
    figure.set_size_inches(total, tall)
    figure.subplots_adjust(
        left=(PAD + overhang.left) / total,
        right=(PAD + overhang.left + inner) / total,
        bottom=(PAD + bottom + overhang.below) / tall,
        top=1 - (PAD + top + overhang.above) / tall,
        wspace=gap / wide,
        hspace=between / high,
    )
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.5, PAD / 2 / tall), figure.transFigure)
    if title:
        figure.suptitle(title, fontsize=FONT, y=1 - PAD / tall, va="top", parse_math=False)


def uncrowd(axis: Axes) -> None:
    """Rotate the labels of an x axis if they would overlap."""
    renderer = _renderer()
    boxes = [label.get_window_extent(renderer) for label in axis.get_xticklabels()]
    if any(right.x0 < left.x1 + 3 for left, right in pairwise(boxes)):
        axis.tick_params(axis="x", labelrotation=90)


def _renderer() -> RendererAgg:
    """Return a renderer that measures texts. The size of its canvas does not matter."""
    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]  # matplotlib gives it no types


def _spec(axis: Axes) -> SubplotSpec:
    spec = axis.get_subplotspec()
    assert spec is not None  # a grid's axis has one
    return spec


def _overhang(shown: Sequence[Axes], size: tuple[float, float]) -> _Overhang:
    """Wrap the texts of each panel to its size, and measure how far they extend beyond it."""
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
    """Add a legend at the bottom, in as many columns as fit. Return its height in inches."""
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
