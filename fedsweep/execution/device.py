"""Devices: their names, whether they compute, and whether a model fits into their memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep import stderr_tail
from fedsweep.errors import (
    DeviceError,
    MachineError,
    MachineLacks,
)
from trainers import engines
from trainers.engines import engine_of

if TYPE_CHECKING:
    pass
from fedsweep.execution.faults import machine_limit, one_line
from fedsweep.execution.packages import import_error

COPIES = 3
"""Numbers for each parameter of a model, at least: the parameter, its gradient and its momentum."""


def try_machine(device: str, threads: int = 1) -> None:
    """Import what every trial needs, and train one made-up step, before any trial is claimed.

    Raises:
        MachineError: something cannot be imported, or a setting of the machine forbids it.
        DeviceError: the device is broken, computes wrong numbers, or its memory is full.

    """
    trainer = engine_of()
    for module in trainer.MODULES:
        if said := import_error(module):
            raise MachineError(f"a trial needs {module}, {said}")
    try:
        trainer.rehearse(device, threads)
    except Exception as error:
        if limit := machine_limit(error):
            raise MachineError(limit) from error
        raise DeviceError(f"{device} is out of service: {one_line(error)}") from error


def too_small(model: str, device: str) -> MachineLacks | None:
    """Return a refusal if the device has too little free memory for a model; None if it is enough.

    Enough for the model alone: how much a trial takes shows in its first round.
    """
    from trainers.facts import STATE_ELEMENTS

    elements = COPIES * STATE_ELEMENTS[model]
    try:
        engine_of().reserve(elements, device)
    except RuntimeError as error:
        said = f"{device} has too little free memory for {model} ({one_line(error)})"
        return MachineLacks(f"{said}: free some, or use another device", (("model", model),))
    return None


def devices(asked: str) -> list[str]:
    """The devices that --device names, one or several; `auto` takes every GPU, else the CPU.

    Raises:
        DeviceError: there is no such device here.
        MachineError: torch cannot be imported, so that nobody can tell.

    """
    if asked == "cpu":
        return ["cpu"]
    if asked not in ("auto", "cuda") and not asked.startswith("cuda:"):
        raise DeviceError(f"--device {asked} is none of auto, cpu, cuda, cuda:N")
    there = [f"cuda:{i}" for i in range(_count_gpus())]
    if asked == "auto":
        return there or ["cpu"]
    if asked == "cuda" and there:
        return there
    if asked in there:
        return [asked]
    found = f"only {', '.join(there)}" if there else "no CUDA device"
    raise DeviceError(f"--device {asked}: there is {found} here; choose --device auto or cpu")


COUNT_GPUS = """
import sys
sys.path.append(sys.argv[1])
from trainers.engines import engine_of
print("GPUs:", engine_of().count_gpus())
"""
"""The program that counts GPUs. Its argument is the folder of our packages, in a checkout too."""


def _count_gpus() -> int:
    """Count this machine's GPUs in a process of its own: a broken torch may take it down."""
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
    said = stderr_tail.gist(done.stderr.splitlines())
    end = stderr_tail.death(done.returncode)
    raise MachineError(
        f"a trial needs torch, which cannot be imported here ({said or end}): mend its installation"
    )
