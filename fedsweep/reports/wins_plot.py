"""The figure of the best arm at each α and E."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fedsweep.appearance import ArmStyle
from fedsweep.fields import label
from fedsweep.reports import layout
from fedsweep.reports.differences import marks
from fedsweep.reports.figure_data import Points
from fedsweep.reports.grouping import Cell, Summary, column_text
from fedsweep.reports.labels import ColumnKey, RowKey, field_text, sort_key
from fedsweep.reports.panels import Panels, Plot, Titles, styles_of
from fedsweep.reports.paper import own_width

WIDE = (0.45, 1.3)
"""The least and the most inches to which the name of a winner is wrapped."""
LABELS = 0.45
"""Inches of a panel's labels."""


@dataclass(frozen=True)
class Winner:
    """The best arm of a cell."""

    column: ColumnKey
    cell: Cell
    lead: float
    """Its mean accuracy minus that of the next arm, from 0 to 1."""
    text: str = ""
    """Its name, wrapped to its place, and its lead in points."""


Winners = Mapping[tuple[Any, Any], Winner]
"""The winner at each α and E."""


def wins(summary: Summary, width: float | None = None) -> Plot | None:
    """Draw the best arm at each α and E, and its lead over the next.

    A cell that lacks a trial takes no part. Returns None if no panel has two pairs of α and E.
    """
    if not {"alpha", "local_steps"} <= set(summary.axes):
        return None
    rest, found = _winners(summary)
    if not found:
        return None
    titles = Titles.of(rest, found)
    total = own_width(len(found), width)
    found = _wrapped(summary, found, layout.slot(len(found), total)[1])
    panels = Panels(len(found), width, share=False, size=_size(list(found.values())))
    points, styles = Points(summary, "alpha", "test_accuracy", "lead"), styles_of(summary)
    for axis, panel in panels.over(sorted(found, key=sort_key)):
        _draw(axis, found[panel], styles)
        for (alpha, step), winner in found[panel].items():
            key = dict(zip(rest, panel, strict=True)) | {"alpha": alpha, "local_steps": step}
            accuracy = winner.cell.measure("test_accuracy")
            numbers = (accuracy.n, accuracy.mean, accuracy.std)
            points.add(winner.column, key, numbers, winner.lead)
        panels.name(axis, titles.of_panel(panel), label("alpha"))
    return Plot(panels.finished("", ()), points.data(), titles.note)


def _winners(summary: Summary) -> tuple[list[str], dict[RowKey, Winners]]:
    """Return the axes other than α and E, and the winners at each point of these axes."""
    across, down = summary.axes.index("alpha"), summary.axes.index("local_steps")
    winners: dict[RowKey, dict[tuple[Any, Any], Winner]] = defaultdict(dict)
    for key, cells in summary.cells.items():
        best = marks(cells, "test_accuracy").best
        if best is None or key[across] is None or key[down] is None:
            continue
        means = sorted((c.mean or 0 for c in cells.values() if c.whole), reverse=True)
        panel = tuple(v for i, v in enumerate(key) if i not in (across, down))
        winners[panel][key[across], key[down]] = Winner(best, cells[best], means[0] - means[1])
    rest = [name for i, name in enumerate(summary.axes) if i not in (across, down)]
    return rest, {panel: places for panel, places in winners.items() if len(places) > 1}


def _wrapped(
    summary: Summary, found: Mapping[RowKey, Winners], slot: float
) -> dict[RowKey, Winners]:
    """Add the texts of all winners, wrapped to their places in a panel of this width."""
    alphas = max(len({alpha for alpha, _ in places}) for places in found.values())
    inches = min(max((slot - LABELS) / alphas - 2 * layout.PAD, WIDE[0]), WIDE[1])

    def texted(winner: Winner) -> Winner:
        name = layout.wrapped(column_text(summary, winner.column), inches, layout.SMALL)
        text = f"{name}\n+{100 * winner.lead:.1f}"
        return Winner(winner.column, winner.cell, winner.lead, text)

    return {
        panel: {place: texted(winner) for place, winner in places.items()}
        for panel, places in found.items()
    }


def _size(panels: Sequence[Winners]) -> tuple[float, float]:
    """Return the inches of a panel in which every winner's name lies in its cell."""
    texts = [winner.text for places in panels for winner in places.values()]
    wide = max(layout.width(text, layout.SMALL) for text in texts) + 2 * layout.PAD
    high = max(text.count("\n") + 1 for text in texts) * 1.3 * layout.SMALL / layout.POINTS
    alphas, steps = (max(len({place[i] for place in p}) for p in panels) for i in (0, 1))
    return alphas * wide, max(layout.LEAST_HIGH / 2, steps * (high + 2 * layout.PAD))


def _draw(axis: Axes, places: Winners, styles: Mapping[ColumnKey, ArmStyle]) -> None:
    alphas, steps = (sorted({place[i] for place in places}) for i in (0, 1))
    for (alpha, step), winner in places.items():
        x, y = alphas.index(alpha), steps.index(step)
        color = styles[winner.column].color
        axis.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, alpha=0.35, edgecolor="white")
        )
        axis.text(
            x, y, winner.text, ha="center", va="center", fontsize=layout.SMALL, parse_math=False
        )
    axis.set_xlim(-0.5, len(alphas) - 0.5)
    axis.set_ylim(-0.5, len(steps) - 0.5)
    axis.grid(visible=False)
    axis.set_xticks(range(len(alphas)), [field_text("alpha", v) for v in alphas])
    axis.set_yticks(range(len(steps)), [field_text("local_steps", v) for v in steps])
    axis.set_ylabel(label("local_steps"), fontsize=layout.FONT, labelpad=2)
