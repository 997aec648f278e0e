"""Shared memory of the slots' processes and their watch: a small file that all of them map.

It is a file because the shared memory and the semaphores of `multiprocessing` need a writable
/dev/shm. The fields have no locks, because a process that was killed would keep a lock.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import ClassVar

from fedsweep.files import created


class Shared(ctypes.Structure):
    """Fields of one slot. Each is written by one side only."""

    stop: int
    """1 if the slot is to stop. Written by the watch."""
    give_back: int
    """The row of the trial that the slot is to give back after its round. Written by the watch."""
    steps: int
    """The number of steps that the trainer has taken. Written by the slot."""
    thread: int
    """The system's number of the slot's thread; 0 if it has a process of its own. Written by the
    slot."""

    _fields_: ClassVar = [
        ("stop", ctypes.c_int64),
        ("give_back", ctypes.c_int64),
        ("steps", ctypes.c_uint64),
        ("thread", ctypes.c_int64),
    ]


def create(file: Path, slots: int) -> list[Shared]:
    """Create the file, filled with zeros, and map it. Return the fields of each slot.

    Raises:
        OSError: the disk is full, permission is denied, or the file system has no shared mappings.

    """
    with created(file, 0o600) as opened:
        opened.write(
            bytes(slots * ctypes.sizeof(Shared))
        )  # a sparse file may meet a full disk later
    mapped = _map(file)
    return [Shared.from_buffer(mapped, i * ctypes.sizeof(Shared)) for i in range(slots)]


def attach(file: Path, number: int) -> Shared:
    """Map the file that the watch created. Return the fields of the slot with this number."""
    return Shared.from_buffer(_map(file), number * ctypes.sizeof(Shared))


def _map(file: Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0)
