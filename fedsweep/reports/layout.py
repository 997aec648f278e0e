"""The layout of a figure: a given width, panels that share it, and a height that holds all texts.

Matplotlib's constrained layout measures several times for each file, and a wide legend may extend
beyond the figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import SubplotSpec
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, MaxNLocator

POINTS = 72.0
"""Points per inch."""
PANEL = 2.0
"""The least inches per panel of a row. With many panels, a column of a paper has two per row."""
MANY = 3
"""Figures with more panels than this have at least two per row."""
ASPECT, LEAST_HIGH, MOST_HIGH = 0.6, 1.2, 3.0
"""The height of a panel as a part of its width with its labels, and its least and most inches."""
FONT, SMALL = 8.0, 7.0
"""The font size of titles and labels, and that of ticks, legends and names, in points."""
LINE, THIN = 1.2, 0.6
"""The widths of a curve and of an axis, in points."""
DPI = 100.0
"""Dots per inch while a figure is measured. A file may have more."""
BETWEEN = 0.25
"""Inches by which the name of a y axis may be longer than the axis. Rows are farther apart."""
BREAK = re.compile(r"(?<!=)\s+(?!=)")
"""The spaces at which a text may be wrapped."""
PAD = 0.05
"""Inches around a figure, and between its parts."""
MOST_COLUMNS = 6
"""The most columns of a legend."""
HANDLE_LENGTH, HANDLE, SPACING, BORDER = 2.8, 3.4, 1.4, 0.2
"""Widths in a legend, in units of its font size.

They are a line, a line with its gap, the space between columns, and the border.
"""
MOST_PASSES = 3
"""The most measurements of a figure. Its ticks and wrapped titles depend on its panels' size."""


@dataclass(frozen=True)
class _Overhang:
    """The most inches by which the texts of panels extend beyond the panels."""

    left: float
    inner: float
    """The same on the left, for panels that have a panel to their left."""
    right: float
    below: float
    between: float
    """The same below, for panels that are not in the last row."""
    above: float


@lru_cache(4096)  # figures of one report have the same names
def width(text: str, points: float = FONT) -> float:
    """Return the inches that the widest line of a text takes."""
    font = FontProperties(size=points)
    lines = (line for line in text.split("\n") if line)
    sizes = (text_to_path.get_text_width_height_descent(x, font, ismath=False) for x in lines)
    return max((size[0] for size in sizes), default=0.0) / POINTS


def wrapped(text: str, inches: float, points: float = FONT) -> str:
    """Wrap the text into lines of this width. A word that is wider is broken.

    A line neither begins nor ends with an equals sign.
    """
    lines = [""]
    for word in BREAK.split(text):
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
    widths = [width(label, SMALL) * POINTS / SMALL for label in labels]
    for columns in range(min(MOST_COLUMNS, len(labels)), 1, -1):
        if _legend_width(widths, columns) * SMALL / POINTS <= inches:
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


def slot(panels: int, inches: float, least: float = PANEL) -> tuple[int, float]:
    """Return the panels per row, and the inches of one with its labels.

    `least` is the least of these inches, except in a row of a single panel.
    """
    fitting = int(inches // least)
    if panels > MANY and least == PANEL:
        fitting = max(fitting, 2)
    columns = max(1, min(panels, fitting, 2 if panels == 4 else 3))
    return columns, inches / columns


def grid(
    panels: int, inches: float, size: tuple[float, float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure of this width with panels. `fit_texts` sets its height.

    `size` is the least width and the height of a panel. By default, both follow from the width.
    """
    columns, each = slot(panels, inches, size[0] + 0.5 if size else PANEL)
    rows = -(-panels // columns)
    high = size[1] if size else min(max(ASPECT * each, LEAST_HIGH), MOST_HIGH)
    # There are no gaps yet, because only the size of the panels matters here.
    figure = Figure(figsize=(columns * (each - 0.4), rows * high), dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    flat = [axis for line in axes for axis in line]
    for axis in flat:
        axis.grid(alpha=0.25, linewidth=THIN)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_linewidth(THIN)
        axis.tick_params(labelsize=SMALL, width=THIN, length=2.5, pad=2)
        axis.xaxis.set_major_locator(MaxNLocator(max(3, min(8, int(2.2 * each))), integer=True))
    for spare in flat[panels:]:
        spare.set_visible(False)
    return figure, flat


def share_heights(axes: Sequence[Axes], bottom: float | None = None) -> None:
    """Give all panels one y axis, from `bottom` if it is given. The first ones in a row show it.

    Matplotlib can share an axis, too, but then each line of a panel updates all panels.
    """
    limits = [axis.get_ylim() for axis in axes]
    low = min(low for low, _ in limits) if bottom is None else bottom
    for axis in axes:
        axis.set_ylim(low, max(high for _, high in limits))
        axis.tick_params(axis="y", labelleft=is_first(axis))


def is_first(axis: Axes) -> bool:
    """Return whether a panel is the first of its row."""
    return _spec(axis).is_first_col()


def is_lowest(axis: Axes, panels: int) -> bool:
    """Return whether no panel lies below this one in a figure of so many panels."""
    spec = _spec(axis)
    columns = spec.get_gridspec().ncols
    return bool(spec.num1 + columns >= panels)


def fit_texts(
    figure: Figure,
    axes: Sequence[Axes],
    handles: Mapping[str, Any],
    inches: float,
    heading: str = "",
    least: float = 0.0,
) -> None:
    """Wrap every text, and set the size of the figure so that all texts fit into its width.

    `least` is the least width of a panel. The figure is wider only if its panels need it.
    """
    shown = [axis for axis in axes if axis.get_visible()]
    spec = _spec(shown[0]).get_gridspec()
    rows, columns = spec.nrows, spec.ncols
    wide, high = figure.get_figwidth() / columns, figure.get_figheight() / rows
    texts = [(text, text.get_text()) for axis in shown for text in _texts(axis)]
    few = [shown[0], shown[columns - 1], shown[-1]]  # enough for a first guess
    for measured in (few, *(MOST_PASSES - 1) * [shown]):
        figure.set_size_inches(columns * wide, rows * high)
        for text, whole in texts:
            text.set_text(whole)
        overhang = _overhang(measured, (wide, high))
        gap = max(overhang.inner + overhang.right + PAD, 2 * PAD)
        sides = overhang.left + overhang.right + 2 * PAD + (columns - 1) * gap
        before, wide = wide, max((inches - sides) / columns, least, 0.3)
        if measured is shown and abs(wide - before) < 0.02:
            break
    inner = columns * wide + (columns - 1) * gap
    total = sides + columns * wide
    title = wrapped(heading, total - 2 * PAD)
    top = PAD + (title.count("\n") + 1) * 1.4 * FONT / POINTS if title else 0.0
    bottom = _add_legend(figure, handles, total - 2 * PAD)
    between = overhang.above + overhang.between + 2 * PAD
    texts_high = overhang.above + overhang.below + bottom
    tall = top + rows * high + (rows - 1) * between + texts_high + 2 * PAD
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


def _uncrowd(axis: Axes, renderer: RendererAgg) -> None:
    """Rotate the labels of an x axis with fixed ticks if they would overlap."""
    if not isinstance(axis.xaxis.get_major_locator(), FixedLocator):
        return
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


def _texts(axis: Axes) -> tuple[Text, Text, Text]:
    return axis.title, axis.xaxis.label, axis.yaxis.label


def _overhang(shown: Sequence[Axes], size: tuple[float, float]) -> _Overhang:
    """Wrap the texts of each panel to its size, and measure how far they extend beyond it."""
    renderer = _renderer()
    first, inner, right, below, between, above = ([0.0] for _ in range(6))
    measured = set()
    for axis in shown:
        for text, inches in zip(_texts(axis), (size[0], size[0], size[1] + BETWEEN), strict=True):
            text.set_parse_math(False)
            text.set_text(wrapped(text.get_text(), inches, float(text.get_fontsize())))
        _uncrowd(axis, renderer)
        if (likeness := _likeness(axis)) in measured:
            continue
        measured.add(likeness)
        panel, whole = axis.get_window_extent(), axis.get_tightbbox(renderer)
        assert whole is not None  # a visible axis has one
        (first if _spec(axis).is_first_col() else inner).append(panel.x0 - whole.x0)
        right.append(whole.x1 - panel.x1)
        (below if _spec(axis).is_last_row() else between).append(panel.y0 - whole.y0)
        above.append(whole.y1 - panel.y1)
    sides = (first, inner, right, below, between, above)
    return _Overhang(*(max(side) / DPI for side in sides))


def _likeness(axis: Axes) -> tuple[Any, ...]:
    """Return a value that is equal for panels whose texts extend equally far beyond them.

    Measuring a panel is slow, and most panels of a figure differ only in the words of their title.
    """
    spec = _spec(axis)
    lines = [text.get_text().count("\n") if text.get_text() else None for text in _texts(axis)]
    ticks = (*axis.get_xlim(), *axis.get_ylim(), *axis.get_xticks())
    names = axis if axis.texts else None  # a panel with names at its lines is like none
    return spec.is_first_col(), spec.is_last_row(), *lines, *ticks, names


def _add_legend(figure: Figure, handles: Mapping[str, Any], inches: float) -> float:
    """Add a legend at the bottom, in as many columns as fit. Return its height in inches."""
    if not handles:
        return 0.0
    narrow = inches - (HANDLE + 2 * BORDER) * SMALL / POINTS
    labels = [wrapped(name, narrow, SMALL) for name in handles]
    legend = figure.legend(
        handles.values(),
        labels,
        loc="lower center",
        ncols=legend_columns(labels, inches),
        frameon=False,
        fontsize=SMALL,
        borderaxespad=0,
        handlelength=HANDLE_LENGTH,
        handletextpad=HANDLE - HANDLE_LENGTH,
        columnspacing=SPACING,
        labelspacing=0.35,
        borderpad=BORDER,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend.get_window_extent(_renderer()).height / DPI + PAD
