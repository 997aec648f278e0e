"""How things are said: a console, durations, sizes."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from fedsweep.store.reads import Progress


@cache
def console() -> Console:
    """Standard output. Where it is no terminal, wide enough that nothing is folded away."""
    from rich.console import Console

    plain = Console(highlight=False)
    if plain.is_terminal or os.environ.get("COLUMNS"):
        return plain
    return Console(highlight=False, width=160)


def duration(seconds: float | None) -> str:
    """41s, 3m20s, 5h07m, 3d04h."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def time_left(progress: Progress) -> str:
    """1h20m (58m to 2h10m), with the slots at work now; without any, what one would take."""
    if progress.queued + progress.running == 0:
        return "–"
    left, more = progress.time_left, " or more" if progress.searching else ""
    if left is None:
        alone = progress.seconds_left
        return "?" if alone is None else f"{duration(alone)} of one slot{more}"
    return f"{duration(left.middle)} ({duration(left.low)} to {duration(left.high)}){more}"


def size(count: float) -> str:
    """512 B, 1.1 MB, 3.0 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
