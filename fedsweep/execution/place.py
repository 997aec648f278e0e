"""Place where a trial runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsweep import queue
from trainers.engines import AUTO


@dataclass(frozen=True)
class Place:
    """Device, number of torch's threads, data folder and engine of an attempt, and its limits."""

    device: str = "cpu"
    threads: int = 1
    data: Path | None = None
    engine: str = AUTO
    """The engine that the user asks for: see `trainers.engines.WISHES`."""
    lease: float = queue.LEASE_SECONDS
    max_attempts: int = queue.MAX_ATTEMPTS
    proven: bool = True
    """True if a trial was trained at this place before.

    Otherwise, an attempt that fails before its first round is not charged to its trial, because the
    machine may be at fault.
    """
    packed: bool = False
    """True if trials of the same process may train at the same time."""
