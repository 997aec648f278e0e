"""How things are said: a console, and the phrases of a report."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from fedsweep.report.phrases import counted, duration, size, time_left

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


__all__ = ["console", "counted", "duration", "keep_showing", "size", "time_left"]

WATCH_SECONDS = 2.0


@cache
def console() -> Console:
    """Standard output. Where it is no terminal, wide enough that nothing is folded away."""
    from rich.console import Console

    plain = Console(highlight=False)
    if plain.is_terminal or os.environ.get("COLUMNS"):
        return plain
    return Console(highlight=False, width=160)


def keep_showing(look: Callable[[], RenderableType]) -> None:
    """Show it, again and again, until Ctrl-C or SIGTERM; the terminal is left as it was.

    During an outage of the database the last look stays, with the reason below it.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from fedsweep.store.engine import OUTAGE, OUTAGE_SECONDS

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Live(console=console(), auto_refresh=False) as live:
        try:
            shown, reached = look(), time.monotonic()
            live.update(shown, refresh=True)
            while True:
                time.sleep(WATCH_SECONDS)
                try:
                    shown = frame = look()
                    reached = time.monotonic()
                except OUTAGE as error:
                    if time.monotonic() - reached > OUTAGE_SECONDS:
                        raise
                    frame = Group(shown, Text(f"{error} (trying again)", style="red"))
                live.update(frame, refresh=True)
        except KeyboardInterrupt:
            return
