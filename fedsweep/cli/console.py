"""How things are said: a console, and the phrases of a report."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import IO, TYPE_CHECKING

from fedsweep import output
from fedsweep.report.phrases import counted, duration, size, time_left

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


__all__ = ["console", "counted", "duration", "keep_showing", "plain_console", "size", "time_left"]

WATCH_SECONDS = 2.0


WIDE = 160
"""Columns of an output that is not a terminal."""


@cache
def console() -> Console:
    """Return the console of standard output, wide enough if it is not a terminal."""
    if (named := os.environ.get("COLUMNS", "")).isdigit() and int(named):
        return plain_console(width=int(named))
    found = plain_console()
    return found if found.is_terminal else plain_console(width=WIDE)


def plain_console(*, file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console that takes texts as they are: without markup, emoji codes and colors.

    Names, errors and paths come from others, and may hold "[/old]" or ":smile:".
    """
    from rich.console import Console

    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def keep_showing(look: Callable[[], RenderableType]) -> None:
    """Show it, again and again, until Ctrl-C or SIGTERM; the terminal is left as it was.

    Raises:
        ReaderGone: the reader of the output has ended.

    """
    from rich.live import Live

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if not console().is_terminal:
            while True:
                console().print(look())
                output.check()
                time.sleep(WATCH_SECONDS)
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(look(), refresh=True)
                output.check()
                time.sleep(WATCH_SECONDS)
