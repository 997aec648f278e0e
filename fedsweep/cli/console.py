"""How things are said: a console, and the phrases of a report."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from fedsweep.report.phrases import counted, duration, size, time_left

if TYPE_CHECKING:
    from rich.console import Console


__all__ = ["console", "counted", "duration", "size", "time_left"]


@cache
def console() -> Console:
    """Standard output. Where it is no terminal, wide enough that nothing is folded away."""
    from rich.console import Console

    plain = Console(highlight=False)
    if plain.is_terminal or os.environ.get("COLUMNS"):
        return plain
    return Console(highlight=False, width=160)
