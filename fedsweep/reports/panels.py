"""The panels of a figure: styled lines of arms, titles, and a legend or names at the lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from fedsweep.appearance import ArmStyle, arm_styles
from fedsweep.fields import label
from fedsweep.reports import direct_labels, layout
from fedsweep.reports.direct_labels import LineEnd
from fedsweep.reports.figure_data import FigureData
from fedsweep.reports.grouping import MeanCurve, Summary
from fedsweep.reports.labels import ColumnKey, RowKey, field_text
from fedsweep.reports.paper import own_width

MOST_SETTINGS = 24
"""The most panels of a figure. More of them could not be read."""

MARKERS = {
    "circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "triangle-down": "v",
    "cross": "P", "triangle-left": "<", "x": "X", "triangle-right": ">", "star": "*",
    "pentagon": "p", "hexagon": "h", "octagon": "8", "hexagon2": "H",
}  # fmt: skip
"""The names of markers in matplotlib."""
DASHES: Mapping[str, Any] = {
    "solid": "-",
    "dash": (0, (4, 1.5)),
    "dashdot": (0, (5, 1.2, 1.2, 1.2)),
    "dot": (0, (1.2, 1.2)),
    "longdash": (0, (8, 2)),
}
"""The names of dashes in matplotlib, in units of a line's width."""
MARKER, FORK = 3.6, 5.2
"""The size of a marker, and of the marker at T*, in points."""
EDGE = 0.8
"""The width of a marker's edge, in points."""
MARKERS_PER_CURVE = 5
"""The markers on a curve. More of them would hide it."""
BAND = 0.13
"""The opacity of a band."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Plot:
    """A figure, and the numbers that it shows."""

    figure: Figure
    data: FigureData
    note: str = ""
    """The settings that all panels share. Their titles leave them out."""


@dataclass(frozen=True)
class Titles:
    """The titles of the panels of a figure: the fields in which the panels differ."""

    shown: Mapping[int, str]
    """The fields of a panel's key that titles have, by place."""
    note: str
    """A sentence about the fields that all panels share. It is "" if there is one panel."""

    @classmethod
    def of(cls, fields: Sequence[str], panels: Iterable[RowKey]) -> Titles:
        """Return the titles of these panels. A single panel has all of its fields."""
        keys = list(panels)
        names = dict(enumerate(fields))
        if len(keys) == 1:
            return cls(names, "")
        same = {place for place in names if len({key[place] for key in keys}) == 1}
        shared = field_texts({names[i]: keys[0][i] for i in sorted(same)})
        note = f"In all panels, {shared}." if shared else ""
        return cls({i: name for i, name in names.items() if i not in same}, note)

    def of_panel(self, key: RowKey) -> str:
        """Return the title of a panel, such as "α = 0.1, E = 5"."""
        return field_texts({name: key[place] for place, name in self.shown.items()})


def field_texts(values: Mapping[str, Any]) -> str:
    """Return text such as "α = 0.1, E = 5". Fields without a value are left out."""
    shown = {n: v for n, v in values.items() if v is not None and (n != "centralized" or v)}
    return ", ".join(f"{label(name)} = {field_text(name, v)}" for name, v in shown.items())


def styles_of(summary: Summary) -> dict[ColumnKey, ArmStyle]:
    """Return the style of each column. It is the same in all figures of a summary."""
    styles = arm_styles([column[0] for column in summary.columns])
    return dict(zip(summary.columns, styles, strict=True))


def marker_of(style: ArmStyle, size: float = MARKER) -> dict[str, Any]:
    """Return the marker of an arm, as arguments of matplotlib."""
    return {
        "marker": MARKERS[style.marker],
        "markersize": size * (1.35 if style.marker == "star" else 1),  # a star is small
        "markerfacecolor": style.color if style.is_filled else "white",
        "markeredgecolor": "white" if style.is_filled else style.color,
        "markeredgewidth": EDGE / 2 if style.is_filled else EDGE,
    }


class Panels:
    """A figure that is drawn panel by panel."""

    def __init__(
        self,
        count: int,
        width: float | None,
        *,
        share: bool = True,
        size: tuple[float, float] | None = None,
    ) -> None:
        """Take the number of panels, and the width of the figure in inches.

        By default, one panel is as wide as a column of a paper, and more are as wide as its page.
        If `share`, the panels have one y axis. `size` is the least width and the height of a panel.
        """
        self._count = count
        self._drawn = min(count, MOST_SETTINGS)
        self._width = own_width(count, width)
        self._share = share
        self._least = size[0] if size else 0.0
        self._figure, self._axes = layout.grid(self._drawn, self._width, size)
        self._ends: dict[Axes, list[LineEnd]] = defaultdict(list)

    def over(self, keys: Sequence[Key]) -> Iterator[tuple[Axes, Key]]:
        """Yield an axis for each of the first keys."""
        yield from zip(self._axes[: self._drawn], keys, strict=False)

    def curve(
        self, axis: Axes, curve: MeanCurve, name: str, style: ArmStyle, number: int = 0
    ) -> None:
        """Draw a curve with its band. Curves with different numbers have markers side by side."""
        low, high = (
            [m + sign * s for m, s in zip(curve.mean, curve.std, strict=True)] for sign in (-1, 1)
        )
        step = max(1, len(curve.rounds) // MARKERS_PER_CURVE)
        first = number * max(1, step // 4) % step
        axis.plot(
            curve.rounds,
            curve.mean,
            label=name,
            color=style.color,
            linestyle=DASHES[style.dash],
            linewidth=layout.LINE,
            markevery=(first, step),
            **marker_of(style),
        )
        axis.fill_between(curve.rounds, low, high, color=style.color, alpha=BAND, linewidth=0)
        if curve.rounds:
            self.end(axis, name, style, curve.rounds[-1], curve.mean[-1])

    def error_bars(
        self,
        axis: Axes,
        points: Sequence[tuple[float, float, float]],
        name: str,
        style: ArmStyle,
    ) -> None:
        """Draw points (x, mean, standard deviation) with error bars, joined by a line."""
        xs, means, stds = zip(*points, strict=True)
        axis.errorbar(
            xs,
            means,
            yerr=stds,
            color=style.color,
            linestyle=DASHES[style.dash],
            linewidth=layout.LINE,
            elinewidth=layout.THIN,
            capsize=2,
            capthick=layout.THIN,
            label=name,
            **marker_of(style),
        )
        self.end(axis, name, style, xs[-1], means[-1])

    def end(self, axis: Axes, name: str, style: ArmStyle, x: float, y: float) -> None:
        """Note the end of a line, for a direct label."""
        self._ends[axis].append(LineEnd(name, style.color, x, y, marker_of(style)))

    def name(self, axis: Axes, title: str, below: str) -> None:
        """Add the title of a panel. The x axis is named below the lowest panels."""
        axis.set_title(title, fontsize=layout.FONT, pad=3)
        if layout.is_lowest(axis, self._drawn):
            axis.set_xlabel(below, fontsize=layout.FONT, labelpad=2)

    def finished(self, left: str, order: Sequence[str], bottom: float | None = None) -> Figure:
        """Name the y axis and every line, and set the layout.

        Lines are named at their ends, or in a legend in this order. A heading says if panels are
        left out. `bottom` is the lower limit of the y axis, if the data do not set it.
        """
        if self._share:
            layout.share_heights(self._axes[: self._drawn], bottom)
        for axis in self._axes:
            if left and layout.is_first(axis):
                axis.set_ylabel(left, fontsize=layout.FONT, labelpad=2)
        heading = ""
        if self._count > MOST_SETTINGS:
            heading = f"the first {MOST_SETTINGS} of {self._count} settings: --where shows others"
        _, slot = layout.slot(self._drawn, self._width)
        ends = [(axis, self._ends[axis]) for axis in self._axes[: self._drawn]]
        labeled = all(names for _, names in ends) and direct_labels.add(ends, slot)
        handles = {} if labeled else self._handles(order)
        layout.fit_texts(self._figure, self._axes, handles, self._width, heading, self._least)
        return self._figure

    def _handles(self, order: Sequence[str]) -> dict[str, Any]:
        handles = {
            # A handle with error bars would hide the marker.
            name: handle[0] if isinstance(handle, ErrorbarContainer) else handle
            for axis in self._axes
            for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        known = [name for name in dict.fromkeys(order) if name in handles]
        return {name: handles[name] for name in (*known, *handles)}
