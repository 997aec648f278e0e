"""Memory that a slot's process shares with its watch: a small file that both map.

A file, because the shared memory and the semaphores of `multiprocessing` need a writable /dev/shm.
No field has a lock: a process that was killed would keep it.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import ClassVar


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


def create(file: Path) -> Shared:
    """Make the file, with zeros in it, and map it.

    Raises:
        OSError: there is no room, no permission, or no shared mapping on this file system.

    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # the process before may still map it
    file.write_bytes(bytes(ctypes.sizeof(Shared)))  # not a hole, for which there may be no room
    return attach(file)


def attach(file: Path) -> Shared:
    """Map the file that the other side made."""
    with file.open("r+b") as opened:
        return Shared.from_buffer(mmap.mmap(opened.fileno(), ctypes.sizeof(Shared)))
