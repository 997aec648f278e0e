"""The engine `walk_cuda`: the walk on a machine with one GPU, which several trials can share.

The GPU is made up: it has `MEMORY` bytes, of which each trial takes `TAKEN` from its first round
on. A trial that finds too little memory fails as on a real GPU. So many trials walk as fast as one.
After an error of the GPU, its process cannot use it anymore. The climb of the number of trials
needs less time than on a real GPU.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import replace

from fedsweep.worker import climb
from tests import walk
from tests.walk import (
    MODEL_MODULES,
    MODULES,
    Data,
    Round,
    State,
    class_counts,
    is_broken_device,
    load,
    load_algorithm,
    load_model,
    load_normalizer,
    model_elements,
    numerics_of,
    pack,
    pack_weights,
    packages,
    reserve,
    unpack,
)
from trainers.config import TrainConfig

__all__ = [
    "MODEL_MODULES",
    "MODULES",
    "class_counts",
    "is_broken_device",
    "load",
    "load_algorithm",
    "load_model",
    "load_normalizer",
    "model_elements",
    "numerics_of",
    "pack",
    "pack_weights",
    "packages",
    "reserve",
    "unpack",
]

DEVICE = "cuda:0"

MEMORY = 1000
TAKEN = 200
"""Bytes that a trial takes. The climb stops at four trials, which take 80 % of the memory."""

ROUND_SECONDS = 0.02
"""Seconds that each round is said to take, so that the climb does not depend on the machine."""

if multiprocessing.parent_process() is not None:  # the process of a test has the real climb
    climb.MEASURED_SECONDS = 0.05

log = logging.getLogger("trainers.walk_cuda")

_lock = threading.Lock()
_broken = threading.Event()
"""Set after an error of the GPU."""
_running: set[int] = set()
"""The threads in which a trial walks."""


class OutOfMemory(Exception):
    """The GPU has no memory left for a trial."""


def count_gpus() -> int:
    return 1


def rehearse(device: str, _threads: int) -> None:
    """Test the GPU, which needs more memory than its trials leave.

    Raises:
        RuntimeError: there is no such device, or a trial walks.

    """
    if device not in ("cpu", DEVICE):
        raise RuntimeError(f"there is no {device}")
    if reserved_memory(device):
        raise RuntimeError("the test of the device finds no memory")


def begin_memory(_device: str) -> None:
    """Begin with what the trials hold now."""


def peak_memory(device: str) -> int:
    return reserved_memory(device)


def total_memory(_device: str) -> int:
    return MEMORY


def reserved_memory(_device: str) -> int:
    with _lock:
        return TAKEN * len(_running)


def free_memory(_device: str) -> None:
    """Keep nothing.

    Raises:
        RuntimeError: the GPU is broken.

    """
    require_sound()


def require_sound() -> None:
    """Require that the GPU works.

    Raises:
        RuntimeError: it is broken.

    """
    if _broken.is_set():
        raise RuntimeError("CUDA error: an earlier error has broken the GPU")


def uses_generator(config: TrainConfig) -> bool:
    """Return True for group normalization, as if its layers had dropout."""
    return config.normalizer == "gn"


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, OutOfMemory)


def run(
    config: TrainConfig, data: Data, state: State | None = None, *, device: str = "cpu"
) -> Iterator[Round]:
    """Walk from the start, or from a state, and hold memory meanwhile."""
    assert device == DEVICE
    me = threading.get_ident()
    with _lock:
        if TAKEN * (len(_running) + 1) > MEMORY:
            raise OutOfMemory(f"the device has {MEMORY} bytes")
        _running.add(me)
    log.info("a walk with %s and seed %d", config.normalizer, config.seed)
    try:
        for measured in walk.run(config, data, state):
            require_sound()
            yield replace(measured, seconds=ROUND_SECONDS)
    except RuntimeError as error:
        if is_broken_device(error):
            _broken.set()
        raise
    finally:
        with _lock:
            _running.discard(me)
