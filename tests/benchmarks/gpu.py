"""The figures of a GPU: both engines, several trials at the same time, first rounds, and Flower.

Each figure names the card. Images are random, and evaluation is left out on both sides.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.benchmarks.cases import configured, random_images
from tests.benchmarks.engine import FLOWER, flower_says
from tests.benchmarks.figure import Figure, N, timed
from tests.builders import REPOSITORY
from trainers import fedavg
from trainers.data.dataset import Dataset
from trainers.graph import WARM_UPS
from trainers.lane_operations import Operations
from trainers.numerics import make_deterministic

WARM_UP_ROUNDS = WARM_UPS + 2
"""Rounds before a measurement. In the last of them, every step is a replay."""

ACTORS = (4, 8)
"""Numbers of Flower's actors on the GPU. The better one is compared."""

COLD_RUNS = 2
"""First rounds with an empty kernel cache, which compile all kernels."""


class NotMeasured(Exception):
    """The reason why a figure has no values."""


def fused(dot: str) -> Operations:
    """Return the operations of the engine `stack`."""
    from trainers import kernels
    from trainers.lane_kernels import Fused

    return Fused(kernels, dot)


@dataclass(frozen=True)
class Machine:
    """The device that is measured, and the size of a measurement."""

    device: str = "cuda:0"
    operations: Callable[[str], Operations] = fused
    """Returns the operations of lanes for a precision of products."""
    images: int = 50_000
    """Training images."""
    rounds: int = 20
    """Rounds of a run, whose speed is one value of a figure."""
    runs: int = N
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes of every trial."""

    def card(self) -> str:
        """Return the name of the GPU. Return the device's if it is none."""
        device = torch.device(self.device)
        return torch.cuda.get_device_name(device) if device.type == "cuda" else self.device

    def missing(self) -> str:
        """Return why nothing can be measured; an empty text if it can."""
        is_gpu = torch.device(self.device).type == "cuda"
        return "there is no CUDA device" if is_gpu and not torch.cuda.is_available() else ""


@dataclass(frozen=True)
class Row:
    """A figure that is to be measured."""

    name: str
    target: str
    unit: str
    measure: Callable[[], list[float]]


def trial_of(machine: Machine, made: Dataset, dot: str | None, **changes: Any) -> Any:
    """Return a trial of the engine `seq`, or of `stack` with products of the precision `dot`."""
    config = configured("resnet20-e20", **{**changes, **machine.changes})
    operations = None if dot is None else machine.operations(dot)
    return fedavg._Federation(config, made, torch.device(machine.device), operations=operations)


def train(trial: Any, first: int, count: int) -> None:
    """Train some rounds. Each ends when the device has no work left."""
    for number in range(first, first + count):
        trial.train(number, sorted)


def images_of(trial: Any) -> int:
    """Return the images that a round trains on."""
    config = trial.config
    return int(config.cohort_size(config.clients) * config.local_steps * config.batch_size)


def speeds(machine: Machine, trials: Sequence[Any]) -> list[float]:
    """Train trials at the same time, each in a thread of its own. Return images per second."""
    values = []
    with ExitStack() as stack:
        for trial in trials:
            stack.callback(trial.close)
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in trials]

        def together(first: int, count: int) -> None:
            each = zip(threads, trials, strict=True)
            for done in [thread.submit(train, trial, first, count) for thread, trial in each]:
                done.result()

        together(1, WARM_UP_ROUNDS)
        images = machine.rounds * sum(map(images_of, trials))
        for run in range(machine.runs):
            first = WARM_UP_ROUNDS + 1 + run * machine.rounds
            values.append(images / timed(partial(together, first, machine.rounds)))
    return values


def images_per_second(
    machine: Machine, dot: str | None, *, trials: int = 1, side: int = 32, **changes: Any
) -> list[float]:
    """Measure some trials, which differ in their seeds."""
    make_deterministic(1)
    made = random_images(machine.images, side)
    each = [trial_of(machine, made, dot, seed=seed, **changes) for seed in range(trials)]
    return speeds(machine, each)


def milliseconds(machine: Machine, dot: str, dtype: str) -> list[float]:
    """Return the milliseconds of rounds of one local step."""
    make_deterministic(1)
    made = random_images(machine.images)
    trial = trial_of(machine, made, dot, local_steps=1, dtype=dtype)
    try:
        train(trial, 1, WARM_UP_ROUNDS)
        numbers = range(WARM_UP_ROUNDS + 1, WARM_UP_ROUNDS + 1 + machine.runs * machine.rounds)
        return [1000 * timed(partial(train, trial, number, 1)) for number in numbers]
    finally:
        trial.close()


def first_round(machine: Machine) -> float:
    """Return the seconds from here to the first average of a stacked trial in bfloat16."""
    began = time.perf_counter()
    make_deterministic(1)
    trial = trial_of(machine, random_images(min(machine.images, 4000)), "bf16", dtype="bfloat16")
    try:
        train(trial, 1, 1)
    finally:
        trial.close()
    return time.perf_counter() - began


FIRST_ROUND = """
import sys
from tests.benchmarks import gpu
print(gpu.first_round(gpu.Machine(sys.argv[1])))
"""


def first_round_in_process(machine: Machine, cache: Path) -> float:
    """Measure a first round in a process of its own, with its kernel cache in a folder."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache)}
    call = [sys.executable, "-c", FIRST_ROUND, machine.device]
    done = subprocess.run(
        call, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def cold_rounds(machine: Machine) -> list[float]:
    """Return the seconds of first rounds, each with an empty kernel cache."""
    seconds = []
    for _ in range(min(COLD_RUNS, machine.runs)):
        with TemporaryDirectory() as cache:
            seconds.append(first_round_in_process(machine, Path(cache)))
    return seconds


def warm_rounds(machine: Machine) -> list[float]:
    """Return the seconds of first rounds whose kernels another process has compiled."""
    with TemporaryDirectory() as cache:
        first_round_in_process(machine, Path(cache))
        return [first_round_in_process(machine, Path(cache)) for _ in range(machine.runs)]


def flower_rates(machine: Machine, actors: int) -> list[float]:
    """Return rounds per second of Flower's simulation on the same GPU, without its first round."""
    if not FLOWER.exists():
        raise NotMeasured(f"there is no {FLOWER}: `make bench` makes it")
    told = flower_says(
        "resnet20-e20", machine.runs + 1, "--device", machine.device, "--actors", str(actors)
    )
    return [1 / seconds for seconds in json.loads(told)["round_s"]]


def ratios_to_flower(machine: Machine, dtype: str, dot: str) -> list[float]:
    """Return our speed over the better of Flower's, with the same model, data and batches."""
    best = max(statistics.median(flower_rates(machine, actors)) for actors in ACTORS)
    make_deterministic(1)
    trial = trial_of(machine, random_images(), dot, dtype=dtype)
    images = images_of(trial)
    return [speed / images / best for speed in speeds(machine, [trial])]


def rows(machine: Machine) -> list[Row]:
    """Return all figures in the order in which they are measured."""
    speed, ms = partial(images_per_second, machine), partial(milliseconds, machine)
    ours, packed = "ResNet20, B = 20, E = 20", "three trials in one process"
    half = {"dtype": "bfloat16"}
    large = {"model": "resnet18", "dataset": "tiny-imagenet", "side": 64}
    wide = "ResNet18, 64x64, B = 20"
    once = "ResNet20, B = 20, E = 1, ten clients"
    flower = "ResNet20, B = 20, E = 20: Flower"
    rate = "images/s"
    table: list[tuple[str, str, str, Callable[[], list[float]]]] = [
        (f"{ours}, seq with graphs, float32", "≥ 17,000", rate, lambda: speed(None)),
        (f"{ours}, stacked, K = 10, bfloat16", "≥ 250,000", rate, lambda: speed("bf16", **half)),
        (f"{ours}, stacked, K = 10, ieee", "≥ 150,000", rate, lambda: speed("ieee")),
        (f"{ours}, stacked, K = 10, tf32x3", "≥ 150,000", rate, lambda: speed("tf32x3")),
        (
            f"{ours}, stacked, K = 10, bfloat16, augmented", "", rate,
            lambda: speed("bf16", augment=True, **half),
        ),
        (
            f"{ours}, {packed}, bfloat16", "≥ 300,000", rate,
            lambda: speed("bf16", trials=3, **half),
        ),
        (f"{once}, bfloat16", "≤ 0.8", "ms a round", lambda: ms("bf16", "bfloat16")),
        (f"{once}, ieee", "≤ 0.8", "ms a round", lambda: ms("ieee", "float32")),
        (f"{wide}, seq with graphs, float32", "≥ 15,000", rate, lambda: speed(None, **large)),
        (
            f"{wide}, stacked, K = 10, bfloat16", "≥ 15,000", rate,
            lambda: speed("bf16", **half, **large),
        ),
        ("first round, warm kernel cache", "≤ 5", "s", lambda: warm_rounds(machine)),
        ("first round, cold kernel cache", "≤ 60", "s", lambda: cold_rounds(machine)),
        *(
            (
                f"{flower}, {actors} actors", "", "rounds/s",
                partial(flower_rates, machine, actors),
            )
            for actors in ACTORS
        ),
        (
            f"{ours}: stacked in ieee / Flower", "≥ 20", "",
            lambda: ratios_to_flower(machine, "float32", "ieee"),
        ),
        (
            f"{ours}: stacked in bfloat16 / Flower", "≥ 20", "",
            lambda: ratios_to_flower(machine, "bfloat16", "bf16"),
        ),
    ]  # fmt: skip
    return [Row(*row) for row in table]


def measured(row: Row, card: str) -> Figure:
    """Return a row's figure. A failure is the reason why it is not measured."""
    name = f"{card}: {row.name}"
    try:
        return Figure(name, row.target, row.unit, row.measure())
    except NotMeasured as error:
        reason = str(error)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        reason = lines[-1] if lines else str(error)
    except Exception as error:  # noqa: BLE001  # the next figures are measured anyway
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return Figure(name, row.target, row.unit, missing=reason)


def figures(machine: Machine) -> Iterator[Figure]:
    """Measure all figures of a machine. Without its device, each says why it is not measured."""
    reason = machine.missing()
    for row in rows(machine):
        if reason:
            yield Figure(row.name, row.target, row.unit, missing=reason)
        else:
            yield measured(row, machine.card())


def parts() -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {"gpu": lambda: figures(Machine())}
