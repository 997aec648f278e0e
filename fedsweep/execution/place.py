"""The place where a trial runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep import queue

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Place:
    """Where a trial runs: a device, torch's threads, and the folder of the data."""

    device: str = "cpu"
    threads: int = 1
    data: Path | None = None
    lease: float = queue.LEASE_SECONDS
    max_attempts: int = queue.MAX_ATTEMPTS
    proven: bool = True
    """True if a trial was trained here before. Otherwise an attempt that fails before its first
    round is not charged to its trial: the machine may be at fault."""
