"""Numerics: the facts under which two results are bitwise equal."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from trainers import own_models
from trainers.config import ALGORITHM, MODEL, NORMALIZER, TrainConfig
from trainers.registry import release


def make_deterministic(threads: int) -> None:
    """Make torch's arithmetic repeatable in this process: threads, algorithms, no TF32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # As torch.use_deterministic_algorithms(True), which imports a compiler for seconds.
    torch.set_deterministic_debug_mode("error")
    # Filling every new tensor costs a tenth of the time, and guards only against a bug that the
    # bitwise tests would show.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def numerics(config: TrainConfig, device: str, *, stacked: bool = False) -> dict[str, str]:
    """Return the numerics of a trial: equal numerics give equal results, bit for bit.

    With `stacked`, they are those of the engine `stack`. Call `make_deterministic` first.
    """
    on_gpu = torch.device(device).type == "cuda"
    return {
        # On a GPU the learning rate is a tensor, which may round differently, and no result depends
        # on the processor's threads.
        "engine": "seq/2" if on_gpu else "seq/1",
        "dtype": config.dtype,
        "threads": "" if on_gpu else str(torch.get_num_threads()),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": str(torch.version.cuda) if on_gpu else "",
        "cudnn": str(torch.backends.cudnn.version()) if on_gpu else "",  # type: ignore[no-untyped-call]  # untyped
        "tf32": str(torch.backends.cuda.matmul.allow_tf32) if on_gpu else "",
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        **(_kernels(config) if stacked else {}),
    } | _packages(config)


def _kernels(config: TrainConfig) -> dict[str, str]:
    """Return what decides the bits of our own kernels, and the engine that uses them."""
    from trainers import kernels
    from trainers.lane_kernels import DOTS

    dot, compiler = DOTS[config.dtype], version("triton")
    return {"engine": "stack/1", "triton": compiler, "dot": dot, "kernels": str(kernels.VERSION)}


def _packages(config: TrainConfig) -> dict[str, str]:
    """Return the versions of other packages whose code builds or trains the model, because its
    numbers depend on them.
    """
    versions = {}
    own = own_models.facts(config.model)
    if own is not None and own.packages:
        versions["model"] = f"{own.packages[0]} {version(own.packages[0])}"
    if (point := MODEL.offered(config.model)) is not None:
        versions["model"] = release(point)
    if (point := NORMALIZER.offered(config.normalizer)) is not None:
        versions["normalizer"] = release(point)
    algorithm = config.algorithm
    if algorithm is not None and (point := ALGORITHM.offered(algorithm)) is not None:
        versions["algorithm"] = release(point)
    return versions


def _cpu_model() -> str:
    """Return the processor's name. Its instructions and caches decide which kernels run."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
