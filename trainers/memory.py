"""Memory that training takes on its device."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
RESIDENT = Path("/proc/self/statm")
FORGET = Path("/proc/self/clear_refs")
"""Linux takes "5" there, and begins again with its VmHWM."""


def total(device: str) -> int:
    """Return the bytes of memory of a GPU, or of the machine."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limit() -> int:
    """Return the bytes of the machine's memory that this process may take.

    A container's limit, or a limit of the process, may make it less than the machine has.
    """
    most = [total("cpu")]
    for file in CONTAINER:
        with suppress(OSError, ValueError):  # "max" is no number
            most.append(int(file.read_text(encoding="ascii")))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(most if soft == resource.RLIM_INFINITY else [*most, soft])


CONTAINER = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files in which Linux keeps a container's limit of memory, in both versions of its groups."""


def begin(device: str) -> None:
    """Reset the peak of the memory in use, on devices that can reset it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        FORGET.write_text("5", encoding="ascii")


def reserved(device: str) -> int:
    """Return the bytes that this process has now: torch's reserved memory on a GPU, otherwise its
    resident memory, and 0 where that cannot be read.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.memory_reserved(device))
    with suppress(OSError, ValueError, IndexError):
        pages = int(RESIDENT.read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def free(device: str) -> None:
    """Give the memory of a GPU that torch keeps for later back to the device."""
    if device.startswith("cuda"):
        import torch

        from trainers import graph

        with graph.LOCK, torch.cuda.device(device):
            torch.cuda.empty_cache()


def taken(device: str) -> int:
    """Return the peak bytes since `begin`: torch's reserved memory on a GPU, otherwise this
    process's resident memory.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_reserved(device))
    # Not getrusage's on Linux: a process begins with its parent's there.
    with suppress(OSError, StopIteration):
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
