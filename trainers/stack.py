"""The engine `stack`: FedAvg in which the clients of a round train at the same time, on a GPU.

The clients' models are the lanes of one model (see `trainers.lanes`), and each kernel works for all
of them. States and snapshots have the layout of `trainers.seq`, which has all other functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainers.config import MODEL, NORMALIZERS, TrainConfig
from trainers.own_normalizers import REPEATING
from trainers.seq import (
    MODEL_MODULES,
    MODULES,
    begin_memory,
    class_counts,
    count_gpus,
    free_memory,
    is_broken_device,
    is_out_of_memory,
    load,
    load_algorithm,
    load_model,
    load_normalizer,
    model_elements,
    pack,
    pack_weights,
    packages,
    peak_memory,
    rehearse,
    reserve,
    reserved_memory,
    total_memory,
    unpack,
    uses_generator,
)

if TYPE_CHECKING:
    from trainers import engines, fedavg, stack  # noqa: PLW0406  # to compare it below
    from trainers.data.dataset import Dataset

    _: engines.Engine = stack  # this module has the interface

__all__ = [
    "MODEL_MODULES",
    "MODULES",
    "begin_memory",
    "class_counts",
    "count_gpus",
    "free_memory",
    "is_broken_device",
    "is_out_of_memory",
    "load",
    "load_algorithm",
    "load_model",
    "load_normalizer",
    "model_elements",
    "numerics_of",
    "pack",
    "pack_weights",
    "packages",
    "peak_memory",
    "refusal",
    "rehearse",
    "reserve",
    "reserved_memory",
    "run",
    "total_memory",
    "unpack",
    "uses_generator",
]


def refusal(config: TrainConfig, data: Dataset, device: str) -> str | None:
    """Return why this engine cannot train a trial on a device; None if it can.

    The answer depends on the configuration, the data, the device and the installed compiler alone.
    """
    if not device.startswith("cuda"):
        return "clients train at the same time only on GPUs"
    from trainers.lane_kernels import DOTS

    if config.dtype not in DOTS:
        return f"{config.dtype} has no kernels for several clients"
    if config.optimizer != "sgd":
        return f"its kernels step by SGD, not by {config.optimizer}"
    if config.normalizer not in NORMALIZERS:
        return f"{config.normalizer} is a normalizer of another package"
    if not MODEL.has_own(config.model):
        return f"{config.model} is a model of another package"
    return (
        _refused_steps(config)
        or _refused_layers(config, data)
        or _refused_clients(config, data)
        or _refused_machine(device)
    )


def _refused_steps(config: TrainConfig) -> str | None:
    """Return which algorithm keeps clients from being stacked."""
    from trainers.algorithms import OF_CLIENTS, find

    if config.algorithm is not None and find(config.algorithm).overrides(*OF_CLIENTS):
        return f"{config.algorithm} changes the local steps of each client"
    return None


def _refused_layers(config: TrainConfig, data: Dataset) -> str | None:
    """Return which state or layer of the model keeps clients from being stacked."""
    from trainers import lanes, models
    from trainers.normalizers import find

    if (kept := find(config.normalizer).keeps) != "nothing":
        return f"with {config.normalizer}, each client keeps its own {kept}"
    if config.normalizer in REPEATING:
        return f"with {config.normalizer}, clients compute their statistics together"
    return lanes.refusal(models.build(config, data.channels, data.size, data.classes))


def _refused_clients(config: TrainConfig, data: Dataset) -> str | None:
    """Return which client has too few samples for a whole batch."""
    from trainers.partition import hold_back, partition

    parts = partition(data.train.labels.numpy(), config, data.members)
    for client, samples in enumerate(parts):
        count = len(hold_back(samples, config, client)[0])
        if count < config.batch_size:
            return f"client {client} has {count} samples, fewer than a batch"
    return None


def _refused_machine(device: str) -> str | None:
    """Return why kernels cannot be compiled on this machine."""
    try:
        from trainers import compiler
    except ImportError as error:
        return f"its kernels need triton ({error})"
    return compiler.refusal(device)


def numerics_of(config: TrainConfig, device: str, threads: int) -> dict[str, str]:
    """Return everything that can change a bit of a result, and make torch's results repeat."""
    from trainers import numerics

    numerics.make_deterministic(threads)
    return numerics.numerics(config, device, stacked=True)


def run(
    config: TrainConfig, data: Dataset, state: fedavg.State | None = None, *, device: str = "cpu"
) -> Iterator[fedavg.Round]:
    """Train a trial; see `trainers.fedavg.run`."""
    from trainers import fedavg, kernels
    from trainers.lane_kernels import DOTS, Fused

    operations = Fused(kernels, DOTS[config.dtype])
    return fedavg.run(config, data, state, device=device, operations=operations)
