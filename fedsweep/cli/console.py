"""The console of the commands, and output that is updated until Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import IO, TYPE_CHECKING

from fedsweep import output
from fedsweep.words import counted, duration, size, time_left

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


__all__ = ["console", "counted", "duration", "keep_showing", "plain_console", "size", "time_left"]

WATCH_SECONDS = 2.0
"""Seconds between two updates, so that a watch costs the database little."""

WIDE = 160
"""Columns of an output that no terminal shows, such as a file or a pipe in a script."""


@cache
def console() -> Console:
    """Return the console of standard output, as wide as the terminal that shows it."""
    if (named := os.environ.get("COLUMNS", "")).isdigit() and int(named):
        return plain_console(width=int(named))
    console = plain_console()
    return console if console.is_terminal else plain_console(width=_width_for_a_pipe())


def _width_for_a_pipe() -> int:
    """Return the columns of the terminal on stderr or stdin if stdout is a pipe (`| less`)."""
    with suppress(OSError, ValueError, AttributeError):  # AttributeError: stdout is closed
        if stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
            for descriptor in (2, 0):
                with suppress(OSError):
                    if columns := os.get_terminal_size(descriptor).columns:
                        return columns
    return WIDE


def plain_console(*, file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that takes texts as they are: without markup, emoji codes and colors.

    Names, errors and paths may contain "[/old]" or ":smile:". Terminal codes in them are replaced.
    """
    from fedsweep.cli.visible_console import VisibleConsole

    return VisibleConsole(file=file, width=width, highlight=False, markup=False, emoji=False)


def keep_showing(look: Callable[[], RenderableType]) -> None:
    """Update the output until Ctrl-C or SIGTERM, and leave the terminal as it was.

    During an outage of the database, the last output stays with the reason below it.

    Raises:
        ReaderGone: The reader of the output has ended.

    """
    from rich.live import Live

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if not console().is_terminal:
            for frame in _frames(look):
                console().print(frame)
                output.check()
        with Live(console=console(), auto_refresh=False) as live:
            for frame in _frames(look):
                live.update(frame, refresh=True)
                output.check()


def _frames(look: Callable[[], RenderableType]) -> Iterator[RenderableType]:
    """Yield the output every WATCH_SECONDS; during an outage the last one, with the reason."""
    from rich.console import Group
    from rich.text import Text

    from fedsweep.cli.arguments import as_given
    from fedsweep.store.outage import OUTAGE, OUTAGE_SECONDS

    shown, reached = look(), time.monotonic()
    yield shown
    while True:
        time.sleep(WATCH_SECONDS)
        try:
            shown, reached = look(), time.monotonic()
        except OUTAGE as error:
            if time.monotonic() - reached > OUTAGE_SECONDS:
                raise
            yield Group(shown, Text(f"{as_given(str(error))} (trying again)", style="red"))
        else:
            yield shown
