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
    """Show it, again and again, until Ctrl-C or SIGTERM; the terminal is left as it was."""
    from rich.live import Live

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Live(console=console(), auto_refresh=False) as live:
        try:
            while True:
                live.update(look(), refresh=True)
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return
