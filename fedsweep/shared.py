"""Memory that the slots' processes share with their watch: a small file that all map.

A file, because the shared memory and the semaphores of `multiprocessing` need a writable /dev/shm.
No field has a lock: a process that was killed would keep it.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import ClassVar

from fedsweep.files import created


class Shared(ctypes.Structure):
    """The fields, each written by one side."""

    stop: int
    """1 if the slot is to stop; by the watch."""
    give_back: int
    """The row of the trial that the slot is to give back after the round; by the watch."""
    steps: int
    """The steps that the trainer has taken; by the slot."""

    _fields_: ClassVar = [
        ("stop", ctypes.c_int64),
        ("give_back", ctypes.c_int64),
        ("steps", ctypes.c_uint64),
    ]


def create(file: Path, slots: int) -> list[Shared]:
    """Make the file, with zeros in it, and map it; returns each slot's part.

    Raises:
        OSError: there is no room, no permission, or no shared mapping on this file system.

    """
    with created(file, 0o600) as opened:
        opened.write(bytes(slots * ctypes.sizeof(Shared)))  # a hole may find no room later
    mapped = _map(file)
    return [Shared.from_buffer(mapped, i * ctypes.sizeof(Shared)) for i in range(slots)]


def attach(file: Path, number: int) -> Shared:
    """Map the file that the watch made; returns the part of a slot, by its number."""
    return Shared.from_buffer(_map(file), number * ctypes.sizeof(Shared))


def _map(file: Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0)
