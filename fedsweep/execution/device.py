"""Devices: their names, a test of each, and a check that a model fits into its memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fedsweep import stderr_tail
from fedsweep.errors import (
    DeviceError,
    MachineError,
    MachineLacks,
)
from fedsweep.execution.faults import machine_limit, one_line
from fedsweep.execution.packages import import_error
from fedsweep.plans import TrainConfig
from trainers import engines
from trainers.engines import engine_of

AUTO, *_ = ENGINES = engines.WISHES
"""The engines that a user can ask for. AUTO lets the engine of each trial be chosen."""


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a device, and how much of it this process has."""

    device: str

    def total(self) -> int:
        """Return the size of the device's memory, bytes."""
        return engine_of().total_memory(self.device)

    def reserved(self) -> int:
        """Return the bytes that this process has now."""
        return engine_of().reserved_memory(self.device)

    def free(self) -> None:
        """Give back what this process keeps but does not use."""
        engine_of().free_memory(self.device)


def uses_generator(config: TrainConfig) -> bool:
    """Return whether a trial draws from a random generator of which a process has only one."""
    return engine_of().uses_generator(config)


COPIES = 3
"""Numbers per parameter of a model, at least: the parameter, its gradient and its momentum."""


def try_machine(device: str, threads: int = 1) -> None:
    """Import what every trial needs, and train one made-up step, before any trial is claimed.

    Raises:
        MachineError: something cannot be imported, or a setting of the machine forbids it.
        DeviceError: the device is broken, computes wrong numbers, or its memory is full.

    """
    trainer = engine_of()
    for module in trainer.MODULES:
        if problem := import_error(module):
            raise MachineError(f"a trial needs {module}, {problem}")
    try:
        trainer.rehearse(device, threads)
    except Exception as error:
        if limit := machine_limit(error):
            raise MachineError(limit) from error
        raise DeviceError(f"{device} is out of service: {one_line(error)}") from error


def too_small(model: str, device: str) -> MachineLacks | None:
    """Return a refusal if a device has too little free memory for a model, None otherwise.

    Only the model is checked, if its size is known. The first round of a trial shows how much
    memory it needs.
    """
    try:
        elements = engine_of().model_elements(model)
    except (Exception, SystemExit):  # noqa: BLE001  # code of another package, which is refused
        return None
    if elements is None:
        return None
    try:
        engine_of().reserve(COPIES * elements, device)
    except RuntimeError as error:
        problem = f"{device} has too little free memory for {model} ({one_line(error)})"
        return MachineLacks(f"{problem}: free some, or use another device", (("model", model),))
    return None


def devices(option: str) -> list[str]:
    """Return the devices that --device names. `auto` is every GPU, or the CPU without a GPU.

    Raises:
        DeviceError: this machine does not have the device.
        MachineError: torch cannot be imported, so that GPUs cannot be counted.

    """
    if option == "cpu":
        return ["cpu"]
    if option not in ("auto", "cuda") and not option.startswith("cuda:"):
        raise DeviceError(f"--device {option} is none of auto, cpu, cuda, cuda:N")
    gpus = [f"cuda:{i}" for i in range(_count_gpus())]
    if option == "auto":
        return gpus or ["cpu"]
    if option == "cuda" and gpus:
        return gpus
    if option in gpus:
        return [option]
    present = f"only {', '.join(gpus)}" if gpus else "no CUDA device"
    raise DeviceError(f"--device {option}: there is {present} here; choose --device auto or cpu")


COUNT_GPUS = """
import sys
sys.path.append(sys.argv[1])
from trainers.engines import engine_of
print("GPUs:", engine_of().count_gpus())
"""
"""A Python program that counts GPUs. Its argument is the folder that contains our packages."""


def _count_gpus() -> int:
    """Count this machine's GPUs, in another process unless torch is imported already.

    A broken torch may crash the process.
    """
    trainer = engine_of()
    if sys.modules.keys() >= {*trainer.MODULES}:
        return trainer.count_gpus()
    home = Path(engines.__file__).resolve().parent.parent
    command = [sys.executable, "-P", "-c", COUNT_GPUS, str(home)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False
    )  # our own program
    for line in done.stdout.splitlines():
        if line.startswith("GPUs: ") and done.returncode == 0:
            return int(line.removeprefix("GPUs: "))
    reason = stderr_tail.gist(done.stderr.splitlines()) or stderr_tail.death(done.returncode)
    raise MachineError(
        f"a trial needs torch, which cannot be imported here ({reason}): mend its installation"
    )
