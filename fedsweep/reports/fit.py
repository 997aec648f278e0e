"""Tables that fit a terminal: numbers are never cut, and omitted columns are named.

A table that does not fit becomes a block of lines for each of its rows. A live view leaves out
columns instead, because it must stay as high as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from fedsweep.errors import visible

NARROWEST = 20
"""Characters per line of the narrowest terminal for which blocks of lines are made."""
FOLDED = 24
"""Characters per line below which a text is not folded."""

CellText = str | Text


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    left: bool = False
    """True if its cells are aligned to the left, as texts are. Numbers are aligned to the right."""
    least: Callable[[str], int] = cell_len
    """Returns the width that a cell's line needs. By default the line is not folded."""
    elides: bool = False
    """True if a text is cut between two words, with an ellipsis, instead of folded."""
    leave_out: int = 0
    """The order in which a live view leaves columns out: 1 first, 0 never."""


def folding(text: str) -> int:
    """Return the width that a text needs if it may be folded between its words."""
    longest = max(map(cell_len, text.split()), default=0)
    return min(cell_len(text), max(FOLDED, min(longest, 2 * FOLDED)))


def eliding(text: str) -> int:
    """Return the width that a text needs if it may be cut."""
    return min(cell_len(text), FOLDED)


@dataclass(frozen=True)
class Grid:
    """A table as columns, rows, a title and a caption."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[CellText]]
    title: str = ""
    caption: str = ""
    boxed: bool = True
    keys: int = 1
    """The first columns name a row: they are the first line of its block."""
    sections: frozenset[int] = frozenset()
    """The rows after which a line is drawn."""

    def fits(self, width: int) -> bool:
        """Return whether the table fits this width."""
        return sum(self._least()) + self._frame() <= width

    def fitted(self, width: int) -> RenderableType:
        """Return the table, or a block of lines for each row if it does not fit."""
        return self.table(width) if self.fits(width) else self.blocks(width)

    def shortened(self, width: int) -> RenderableType:
        """Return the table without the columns that do not fit, and a line that names these."""
        grid = self
        names: list[str] = []
        while not grid.fits(width):
            droppable = [column for column in grid.columns if column.leave_out]
            if not droppable:
                return self.blocks(width)
            least = min(droppable, key=lambda column: column.leave_out)
            grid, names = grid._without(least), [*names, least.name]
        if not names:
            return grid.table(width)
        note = f"left out: {', '.join(names)} (they need a wider terminal)"
        return Group(grid.table(width), Text(note, style="dim"))

    def _without(self, column: Column) -> Grid:
        at = self.columns.index(column)
        columns = [c for c in self.columns if c is not column]
        return replace(self, columns=columns, rows=[[*r[:at], *r[at + 1 :]] for r in self.rows])

    def _frame(self) -> int:
        """Return the characters between and around the cells of a line."""
        count = len(self.columns)
        return 3 * count + 1 if self.boxed else 2 * (count - 1)

    def _least(self) -> list[int]:
        """Return the least width of each column."""
        return [
            max([*map(cell_len, column.name.split()), *map(column.least, _lines(cells)), 1])
            for column, cells in zip(self.columns, self._cells(), strict=True)
        ]

    def _most(self) -> list[int]:
        """Return the width of each column if nothing is folded."""
        return [
            max([cell_len(column.name), *map(cell_len, _lines(cells)), 1])
            for column, cells in zip(self.columns, self._cells(), strict=True)
        ]

    def _cells(self) -> list[list[CellText]]:
        return [[row[i] for row in self.rows] for i in range(len(self.columns))]

    def _widths(self, width: int) -> list[int]:
        """Return the width of each column: its least width, and an even part of the spare width."""
        widths, most = self._least(), self._most()
        spare = width - self._frame() - sum(widths)
        while spare > 0 and (open_ := [i for i, w in enumerate(widths) if w < most[i]]):
            for i in open_[:spare]:
                widths[i] += 1
            spare -= min(len(open_), spare)
        return widths

    def table(self, width: int) -> Table:
        """Return a table that is at most this wide."""
        look = Table if self.boxed else _unboxed
        table = look(
            title=Text(visible(self.title)) if self.title else None,
            caption=Text(visible(self.caption)) if self.caption else None,
            title_justify="left",
            caption_justify="left",
        )
        widths = self._widths(width)
        for column, most in zip(self.columns, widths, strict=True):
            table.add_column(
                Text(visible(column.name)),
                justify="left" if column.left else "right",
                overflow="fold",
                width=most,
            )
        for n, row in enumerate(self.rows):
            cells = [
                _elided(_text(cell), most) if column.elides else _text(cell)
                for column, cell, most in zip(self.columns, row, widths, strict=True)
            ]
            table.add_row(*cells, end_section=n in self.sections)
        return table

    def blocks(self, width: int) -> RenderableType:
        """Return a block of lines for each row: a line for each cell that is not empty."""
        width = max(width, NARROWEST)
        parts: list[RenderableType] = [Text(visible(self.title))] if self.title else []
        for n, row in enumerate(self.rows):
            parts += [Rule(characters="-", style="dim")] if n else []
            names = [column.name for column in self.columns]
            heading = Text(", ").join(
                Text(f"{visible(name)} ").append_text(_text(cell))
                for name, cell in zip(names[: self.keys], row, strict=False)
            )
            pairs = list(zip(names, row, strict=True))[self.keys :]
            parts += [heading, *pair_lines([(name, cell) for name, cell in pairs if cell], width)]
        return Group(*parts, *([Text(visible(self.caption))] if self.caption else []))


def pair_lines(pairs: Sequence[tuple[str, CellText]], width: int) -> list[RenderableType]:
    """Return lines of names and values. If a word of a value does not fit, it has its own line."""
    most = max((cell_len(name) for name, _ in pairs), default=0)
    words = max((cell_len(w) for _, cell in pairs for w in _text(cell).plain.split()), default=0)
    if most + min(words, FOLDED) + 4 > width:
        return [
            part
            for name, cell in pairs
            for part in (
                Padding(Text(visible(name), overflow="fold"), (0, 0, 0, 2)),
                Padding(_text(cell), (0, 0, 0, 4)),
            )
        ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=most)
    grid.add_column(overflow="fold")
    for name, cell in pairs:
        grid.add_row(Text(visible(name)), _text(cell))
    return [Padding(grid, (0, 0, 0, 2))] if pairs else []


def _unboxed(**around: object) -> Table:
    return Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), **around)  # type: ignore[arg-type]  # of `Table`


def _text(cell: CellText) -> Text:
    """Return a cell as text: a string is never markup."""
    return cell if isinstance(cell, Text) else Text(visible(cell))


def _lines(cells: Sequence[CellText]) -> list[str]:
    return [line for cell in cells for line in _text(cell).plain.splitlines()]


def _elided(text: Text, width: int) -> Text:
    """Return the words that fit, so that no number is cut in the middle."""
    if cell_len(text.plain) <= width:
        return text
    kept = ""
    for word in text.plain.split():
        if cell_len(f"{kept}{word} …") > width:
            break
        kept += f"{word} "
    return Text(f"{kept}…", style=text.style)
