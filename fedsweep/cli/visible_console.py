"""A console of rich that writes no terminal codes except rich's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fedsweep import output
from fedsweep.errors import visible


class VisibleConsole(Console):
    """A console that replaces each character of a text that would control the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with visible characters only."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)

    @property
    def file(self) -> IO[str]:
        """Return the stream without the filter of `output`, which would remove rich's codes."""
        file = Console.file.__get__(self)
        while (inner := getattr(file, "rich_proxied_file", None)) is not None:
            file = inner
        return output.unfiltered(file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file
