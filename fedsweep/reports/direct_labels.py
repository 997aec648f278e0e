"""Names at the ends of lines, if there is room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from fedsweep.reports import layout

MOST_WIDE = 0.3
"""The part of a panel's width, with its labels, that names may take. A legend takes none."""
HIGH = 1.25
"""The height of a name, in units of its font size."""
FARTHEST = 0.4
"""The part of a panel's height by which a name may lie above or below its line's end."""
LEADER, BEFORE = 0.2, 0.06
"""Inches from the panel to a name, and from the arm's marker to its name.

A line leads from the name to the end that it names.
"""
LEADER_COLOR = "#999999"
"""The color of these lines. They would look like data in the color of their arm."""
CONTRAST = 4.5
"""The contrast of a name with white: the least of WCAG 2.2 for text."""


@dataclass(frozen=True)
class LineEnd:
    """The last point of a line, in the panel's data."""

    name: str
    color: str
    x: float
    y: float
    marker: Mapping[str, Any] = field(default_factory=dict)
    """The marker of the arm, as arguments of matplotlib. It stands before the name."""


def spread(heights: Sequence[float], least: float, top: float) -> list[float] | None:
    """Return positions from 0 to `top` near these heights, in their order, `least` apart.

    Equal heights keep their order, the first above the second. The positions minimize the sum of
    squared moves. Return None if there is no room.
    """
    if least * (len(heights) - 1) > top + 1e-9:
        return None
    order = sorted(range(len(heights)), key=lambda i: (heights[i], -i))
    # With the spacing subtracted, the order must only not decrease: an isotonic regression.
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        mean, count = heights[i] - rank * least, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    highest = top - least * (len(heights) - 1)
    places = [0.0] * len(heights)
    for rank, (i, mean) in enumerate(zip(order, means, strict=True)):
        places[i] = min(max(mean, 0.0), highest) + rank * least
    return places


def add(panels: Sequence[tuple[Axes, Sequence[LineEnd]]], slot: float) -> bool:
    """Add names to the ends of the lines of all panels. `slot` is the width of one, in inches.

    Return False, and add none, if a panel has no room for its names.
    """
    placed = [_places(axis, ends, slot) for axis, ends in panels if slot >= layout.PANEL]
    if len(placed) < len(panels) or any(places is None for places in placed):
        return False
    for (axis, ends), places in zip(panels, placed, strict=True):
        for end, place in zip(ends, places or (), strict=True):
            _add_name(axis, end, place)
    return True


def _places(axis: Axes, ends: Sequence[LineEnd], slot: float) -> list[float] | None:
    """Return the place of each name as a part of the panel's height, or None without room."""
    if any(layout.width(end.name, layout.SMALL) + LEADER > MOST_WIDE * slot for end in ends):
        return None
    figure = axis.figure
    assert figure is not None  # a panel has one
    high = axis.get_window_extent().height / figure.dpi
    heights = [_height(axis, end) for end in ends]
    places = spread(heights, HIGH * layout.SMALL / layout.POINTS / high, 1.0)
    moves = [abs(place - height) for place, height in zip(places or (), heights, strict=False)]
    return None if max(moves, default=0.0) > FARTHEST else places


def _height(axis: Axes, end: LineEnd) -> float:
    """Return the height of a line's end as a part of the panel's height."""
    axis.get_ylim()  # it brings the limits up to date
    return float(axis.transLimits.transform(axis.transScale.transform((end.x, end.y)))[1])


def _add_name(axis: Axes, end: LineEnd, place: float) -> None:
    figure = axis.figure
    assert figure is not None  # a panel has one
    at_name, at_marker = (
        axis.transAxes + ScaledTranslation(inches, 0, figure.dpi_scale_trans)
        for inches in (LEADER, LEADER - BEFORE)
    )
    name = axis.annotate(
        end.name,
        xy=(end.x, end.y),
        xytext=(1.0, place),
        textcoords=at_name,
        fontsize=layout.SMALL,
        color=ink(end.color),
        va="center_baseline",
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "-",
            "color": LEADER_COLOR,
            "linewidth": layout.THIN,
            "shrinkA": 0.5,
            "shrinkB": 2.5,
            "relpos": (0.0, 0.5),
        },
    )
    name.set_parse_math(False)
    if end.marker:
        more = {"linestyle": "none", "clip_on": False, "zorder": 3, **end.marker}
        axis.add_line(Line2D([1.0], [place], color=end.color, transform=at_marker, **more))


def ink(color: str) -> str:
    """Return the color, or a darker one whose text can be read on white."""
    parts = np.array(to_rgb(color))
    while 1.05 / (_luminance(parts) + 0.05) < CONTRAST:
        parts = parts * 0.95
    return to_hex(tuple(parts))


def _luminance(parts: NDArray[np.float64]) -> float:
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
