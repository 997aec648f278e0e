"""The engine `seq`: FedAvg in which one client trains after another (see `trainers.fedavg`).

A worker imports this module before it knows that torch works, so torch is imported inside the
functions. `trainers.engines` explains each function.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainers import memory
from trainers.config import (
    ALGORITHM,
    ALGORITHMS,
    MODEL,
    MODELS,
    NORMALIZER,
    NORMALIZERS,
    TrainConfig,
)
from trainers.engines import Unreadable
from trainers.own_models import OF_TIMM, OWN, facts
from trainers.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

    from trainers import engines, fedavg, seq  # noqa: PLW0406  # to compare it below
    from trainers.algorithms import Algorithm
    from trainers.data.dataset import Dataset

    _: engines.Engine = seq  # this module has the interface

MODULES: tuple[str, ...] = ("torch", "safetensors.torch", "trainers.fedavg", "trainers.data")
MODEL_MODULES: Mapping[str, tuple[str, ...]] = {
    own.name: own.modules for own in (*OWN, OF_TIMM) if own.modules
}

begin_memory = memory.begin
peak_memory = memory.taken
total_memory = memory.total
reserved_memory = memory.reserved
free_memory = memory.free


def count_gpus() -> int:
    """Return the number of CUDA devices."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def rehearse(device: str, threads: int) -> None:
    """Train one step on made-up numbers; see `trainers.rehearsal`.

    Raises:
        ArithmeticError: the device computes wrong numbers.
        RuntimeError: torch cannot use the device, or it has too little memory.

    """
    from trainers import numerics, rehearsal

    numerics.make_deterministic(threads)
    rehearsal.rehearse(device)


def reserve(elements: int, device: str) -> None:
    """Allocate memory for so many numbers, and free it.

    Raises:
        RuntimeError: there is too little memory.

    """
    from trainers import rehearsal

    rehearsal.reserve(elements, device)


def load_normalizer(name: str) -> None:
    """Import a normalizer of another package; see `trainers.normalizers.find`."""
    from trainers import normalizers

    normalizers.find(name)


def load_algorithm(name: str) -> None:
    """Import an algorithm of another package; see `trainers.algorithms.find`."""
    from trainers import algorithms

    algorithms.find(name)


def load_model(name: str) -> None:
    """Import a model of another package; see `trainers.models.find`."""
    from trainers import models

    models.find(name)


def model_elements(name: str) -> int | None:
    """Return about how many elements a model's state has; None if that is not known."""
    if (own := facts(name)) is not None:
        return own.elements
    from trainers import models

    return models.find(name).elements


def packages(config: TrainConfig) -> list[str]:
    """Return the packages of the model, and of parts that are not ours."""
    own = facts(config.model)
    names = list(own.packages) if own is not None else []
    points = [MODEL.offered(config.model), NORMALIZER.offered(config.normalizer)]
    points += [ALGORITHM.offered(config.algorithm)] if config.algorithm is not None else []
    return names + [point.dist.name for point in points if point is not None and point.dist]


def uses_generator(config: TrainConfig) -> bool:
    """Return whether a trial draws from torch's generator: for dropout, or in foreign code."""
    from trainers import models

    foreign = config.normalizer not in NORMALIZERS
    foreign = foreign or config.algorithm not in (*ALGORITHMS, None)
    return foreign or models.draws(config)


def numerics_of(config: TrainConfig, device: str, threads: int) -> dict[str, str]:
    """Return everything that can change a bit of a result, and make torch's results repeat."""
    from trainers import numerics

    numerics.make_deterministic(threads)
    return numerics.numerics(config, device)


def load(config: TrainConfig, root: Path | None) -> Dataset:
    """Load a trial's data set and initial weights, and check that the trial fits them.

    Raises:
        BadData: data or weights are missing, damaged, or differ from the planned ones.
        ValueError: the data cannot be split as configured, the model does not fit them, or the
            algorithm refuses the configuration.

    """
    from trainers import algorithms
    from trainers.partition import partition
    from trainers.precheck import check_side

    if config.algorithm is not None:
        _check_by_algorithm(algorithms.find(config.algorithm), config)
    dataset = _load_for(config, root)
    if config.model in MODELS:
        check_side(config, dataset.height)
    partition(dataset.train.labels.numpy(), config, dataset.members)
    ours = config.model in MODELS and config.normalizer in NORMALIZERS
    if ours and config.pretrained is None:
        return dataset
    from trainers import model_check

    weights = _weights_for(config, root)
    notes = model_check.check(config, dataset, weights)
    return replace(dataset, pretrained=weights, found=(*dataset.found, *notes))


def _check_by_algorithm(algorithm: type[Algorithm], config: TrainConfig) -> None:
    """Let an algorithm refuse a configuration.

    Raises:
        ValueError: it refuses the configuration, or its check fails.

    """
    try:
        algorithm.check(config)
    except (ValueError, ImportError, MemoryError):
        raise
    except Exception as error:  # code of another package
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(
            f"algorithm = {config.algorithm} cannot check a trial ({problem}): correct its package"
        ) from error


def _weights_for(config: TrainConfig, root: Path | None) -> dict[str, Tensor] | None:
    """Return the initial weights of a trial, by torch's names; None if it has none."""
    if config.pretrained is None:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load as unpacked

    from trainers import weight_files

    content = weight_files.read(config.pretrained, config.pretrained_hash, root)
    try:
        weights: dict[str, Tensor] = unpacked(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise weight_files.not_safetensors(config.pretrained, error) from error
    return weights


def class_counts(config: TrainConfig, root: Path | None) -> list[list[int]]:
    """Return each client's samples of each class; see `trainers.partition.class_counts`."""
    from trainers import partition

    counts: list[list[int]] = partition.class_counts(_load_for(config, root), config).tolist()
    return counts


def _load_for(config: TrainConfig, root: Path | None) -> Dataset:
    choice = (config.image_size, config.image_height, config.file, config.clients_by)
    with _one_load():
        data = _load(config.dataset, *choice, config.fingerprint, root)
        return data if config.partition_file is None else _assigned(data, config, root)


def _assigned(data: Dataset, config: TrainConfig, root: Path | None) -> Dataset:
    """Return the data set with the clients of the file of the partition.

    Raises:
        BadData: the file is missing, names other samples, or is not the planned one.

    """
    import numpy as np

    from trainers.data.errors import Missing, shown
    from trainers.data.listing import assignment

    assert config.partition_file is not None
    choice = config.model_dump()
    clients = assignment(choice, config.partition_file, root, len(data.train.labels))
    if config.partition_fingerprint not in (None, clients.fingerprint):
        raise Missing(
            f"{shown(config.partition_file)} here (fingerprint {clients.fingerprint}) is not the "
            f"file that the trial was planned with ({config.partition_fingerprint}): point --data "
            "at the right folder"
        )
    members = np.array(clients.members, dtype=np.int64)
    return replace(data, groups=clients.clients, members=members, test_members=None)


@contextmanager
def _one_load() -> Iterator[None]:
    """Let threads load one after another, so that the second one finds the data of the first.

    The first one counts its steps, and is ended if it stalls. That limits the wait of the others.
    """
    if not _LOADING.acquire(blocking=False):
        with progress.waiting():
            _LOADING.acquire()
    try:
        yield
    finally:
        _LOADING.release()


_LOADING = threading.Lock()


@lru_cache(maxsize=2)
def _load(
    dataset: str,
    image_size: int | None,
    image_height: int | None,
    file: str | None,
    clients_by: str | None,
    fingerprint: str | None,
    root: Path | None,
) -> Dataset:
    """Load a data set, and keep it for the next trial of this process."""
    from trainers.data import datasets

    return datasets.load(
        dataset,
        root,
        image_size=image_size,
        image_height=image_height,
        file=file,
        clients_by=clients_by,
        fingerprint=fingerprint,
    )


def run(
    config: TrainConfig, data: Dataset, state: fedavg.State | None = None, *, device: str = "cpu"
) -> Iterator[fedavg.Round]:
    """Train a trial; see `trainers.fedavg.run`."""
    from trainers import fedavg

    return fedavg.run(config, data, state, device=device)


def pack(state: fedavg.State) -> bytes:
    """Return a state's tensors as the content of a safetensors file."""
    return pack_weights(state.tensors)


def unpack(round: int, content: bytes) -> fedavg.State:
    """Return the state of a round in the content of a safetensors file.

    Raises:
        Unreadable: the content is not such a file.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from trainers import fedavg

    try:
        return fedavg.State(round, load(content))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Unreadable(str(error)) from error


def pack_weights(weights: dict[str, Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file."""
    from safetensors.torch import save

    content: bytes = save(weights)
    return content


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a GPU or the machine has no memory left for a tensor."""
    import torch

    # Torch's allocator on a CPU raises a RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_broken_device(error: Exception) -> bool:
    """Return whether an error leaves the device's CUDA context dead."""
    marks = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS", "NVML")
    full = is_out_of_memory(error)
    return isinstance(error, RuntimeError) and not full and any(m in str(error) for m in marks)
