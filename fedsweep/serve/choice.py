"""The panel, the arms, the grouping and the tuning that the address of a sweep's screen chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedsweep.reports.grouping import column_text
from fedsweep.reports.labels import ColumnKey
from fedsweep.serve.screen import listed
from fedsweep.serve.totals import Panel, Shape

MAX_ARMS = 24
"""Arms that one panel draws. More lines could not be told apart."""

PARAMETERS = ("panel", "arm", "group", "tune", "smooth")
"""The query parameters that hold the choice."""
REPEATED = ("arm", "group", "tune")
"""Those that may occur several times. If one occurs only without a value, nothing is chosen."""


@dataclass(frozen=True)
class Choice:
    """The content of a sweep's figures."""

    shape: Shape
    group_by: tuple[str, ...]
    """The fields that tell the rows of the table apart."""
    tuned: tuple[str, ...]
    """The fields whose value each cell chooses on validation."""
    name: str | None
    """The name of the panel; None if the sweep has no trials."""
    panel: Panel
    arms: Mapping[str, ColumnKey]
    """The arms of the panel by their texts, in column order."""
    checked: frozenset[str]
    """The texts of the chosen arms."""
    is_usual: bool
    """True if the address names no arms."""

    @property
    def usual(self) -> frozenset[str]:
        """Return the arms that are drawn if the address names none: the first MAX_ARMS."""
        return frozenset(list(self.arms)[:MAX_ARMS])

    @property
    def drawn(self) -> list[ColumnKey]:
        """Return the columns that the figure by round draws, in order."""
        return [column for text, column in self.arms.items() if text in self.checked][:MAX_ARMS]

    @property
    def compared(self) -> list[ColumnKey]:
        """Return the columns that the figure by T* uses. It has room for all."""
        chosen = self.arms if self.is_usual else self.checked
        return [column for text, column in self.arms.items() if text in chosen]

    @property
    def left_out(self) -> int:
        """Return the number of arms that the figure by round has no room for."""
        return len(self.arms if self.is_usual else self.checked) - len(self.drawn)


ShapeOf = Callable[[tuple[str, ...] | None, tuple[str, ...]], Shape]
"""Returns the table of a grouping and of tuned fields."""


def choose(shape: ShapeOf, query: Mapping[str, str]) -> Choice:
    """Return the choice of an address.

    Values that the sweep does not have are ignored, because a plan may have changed.
    """
    group, tune = listed(query, "group"), listed(query, "tune")
    plain = shape(None, ())
    tuned = tuple(name for name in plain.tunable if tune and name in tune)
    usual = shape(None, tuned) if tuned else plain
    group_by = usual.fields if group is None else tuple(n for n in usual.fields if n in group)
    grouped = usual if group_by == usual.fields else shape(group_by, tuned)
    panels, panel_text = grouped.panels, query.get("panel", "")
    name = panel_text if panel_text in panels else grouped.first
    panel = panels[name] if name is not None else Panel((), {})
    arms = {column_text(grouped.empty, column): column for column in panel.cells}
    given = listed(query, "arm")
    chosen = list(arms)[:MAX_ARMS] if given is None else [text for text in arms if text in given]
    return Choice(
        grouped, group_by, grouped.empty.tuned, name, panel, arms, frozenset(chosen), given is None
    )
