"""The FedAvg engine: figures of a round, of a whole machine, and of Flower for comparison.

Evaluation is left out everywhere, on both sides.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from tests.benchmarks.cases import CLIENTS, built, configured, dataset, random_images
from tests.benchmarks.figure import Figure, N, ratios, timed
from tests.builders import REPOSITORY
from trainers import draw_source, fedavg
from trainers.data import batches
from trainers.data.dataset import Dataset
from trainers.keys import keyed
from trainers.local import LocalTraining
from trainers.numerics import make_deterministic

FLOWER = REPOSITORY / ".venv-flower" / "bin" / "python"
"""The peer's own environment, because it needs other versions. `make bench` makes it."""


def federation(case: str, made: Dataset | None = None, device: str = "cpu", **changes: Any) -> Any:
    """Return an engine after its first round."""
    trial = fedavg._Federation(
        configured(case, **changes), made or dataset(case), torch.device(device)
    )
    trial.train(1, sorted)
    return trial


def rounds(trial: Any, count: int, first: int = 2) -> Iterator[float]:
    """Yield the seconds of each round."""
    for number in range(first, first + count):
        yield timed(lambda number=number: trial.train(number, sorted))  # type: ignore[misc]  # a default binds it


def outside() -> Iterator[Figure]:
    """Measure a round without gradient steps: cohort, batches, load, average, momentum, checks."""
    make_deterministic(1)
    zero = torch.zeros((), dtype=torch.float64)

    def only_draw(local: LocalTraining, round: int, client: int, _trained: int) -> Any:
        local.positions(round, client)
        return zero

    train, LocalTraining.train = LocalTraining.train, only_draw  # type: ignore[assignment,method-assign]  # for a while
    try:
        for clients in (CLIENTS, 10 * CLIENTS):
            changes = {"clients": clients, "local_steps": 1}
            trial = federation("resnet20-e1", random_images(50_000), **changes)

            def whole(number: int, trial: Any = trial) -> None:
                trial.check_finite(trial.train(number, sorted))

            seconds = []
            with helped(trial) as first:
                for number in range(first, first + 60):
                    seconds.append(timed(partial(whole, number)))
                    time.sleep(0.002 * clients / CLIENTS)  # training gives the helper more
            target = 1 + 0.05 * clients
            yield Figure(
                f"outside training, {clients} clients x ResNet20", f"≤ {target:g}", "ms a round",
                [1000 * s for s in seconds],
            )  # fmt: skip
    finally:
        LocalTraining.train = train  # type: ignore[method-assign]  # as it was


def drawing() -> Iterator[Figure]:
    """Measure batches and crops of a round in the training thread, and a round of 20 steps.

    A pause after each round stands for its training, so that the helper is ahead. The old way
    computes index maps in the training thread.
    """
    make_deterministic(1)
    made = random_images(50_000)
    for steps in (1, 20):
        name = f"drawing batches and crops, E = {steps}, ten clients"
        trial = federation("resnet20-e1", made, local_steps=steps, augment=True)
        old: list[float] = []
        new: list[float] = []
        with helped(trial) as first:
            for number in range(first, first + 100):
                old.append(1000 * timed(partial(draw_maps, trial, number)))
                new.append(1000 * timed(partial(draw_ahead, trial, number)))
                time.sleep(0.002 * steps)
        yield Figure(f"{name}: index maps in the thread", "", "ms a round", old)
        yield Figure(f"{name}: with a helper", "≤ 0.4" if steps == 1 else "", "ms a round", new)
    ours, others = (federation("resnet20-e20", made, model="cnn", augment=True) for _ in range(2))
    others.local.positions = lambda number, client: index_maps(
        others.local, others.samples[client], number, client
    )
    seconds, before = [], []
    with helped(ours) as first:
        for number in range(first, first + 2 * N):
            before.append(timed(partial(others.train, number, sorted)))
            seconds.append(timed(partial(ours.train, number, sorted)))
    yield Figure("a round of cnn, E = 20: index maps in the thread", "", "s", before)
    yield Figure("the same with a helper", "", "s", seconds)
    yield Figure("with a helper / index maps", "≤ 1.02", "", ratios(seconds, before))


@contextmanager
def helped(trial: Any) -> Iterator[int]:
    """Give a trial a helper that is ahead. Yield the next round."""
    source, kept = trial.draws, draw_source.cache
    draw_source.START_SECONDS, before = 0.0, draw_source.START_SECONDS
    draw_source.cache = draw_source.Cache(0)
    number = 2
    source.round(number)
    while source._helper.proof is not None:
        time.sleep(0.1)
        number += 1
        source.round(number)
    time.sleep(1)
    try:
        yield number + 1
    finally:
        draw_source.START_SECONDS, draw_source.cache = before, kept
        source.close()


def draw_ahead(trial: Any, number: int) -> None:
    """Make the tensors of a round's batches and crops from the trial's source of draws."""
    for client in range(CLIENTS):
        trial.local.positions(number, client)


def draw_maps(trial: Any, number: int) -> None:
    """Make the same tensors in this thread, as index maps of int64."""
    for client, samples in enumerate(trial.samples):
        index_maps(trial.local, samples, number, client)


def index_maps(local: Any, samples: Any, round: int, client: int) -> list[torch.Tensor]:
    """Return the indices [E, B], rows [E, B, H] and columns [E, B, W] of a client's round."""
    config, height, width = local.config, local.data.height, local.data.width
    drawn = batches.local_batches(samples, config, round, client)
    pad, down, across = min(height, width) // 8, np.arange(height), np.arange(width)
    rows, columns = [], []
    for step in range(len(drawn)):
        draw = keyed(config.seed, "augment", round, client, step)
        offset = draw.randint(0, 2 * pad + 1, (2, drawn.shape[1], 1))
        flip = draw.randint(0, 2, (drawn.shape[1], 1))
        rows.append(offset[0] + down)
        columns.append(offset[1] + np.where(flip == 1, width - 1 - across, across))
    return [local.send(part) for part in (drawn, np.stack(rows), np.stack(columns))]


def plain_loop(dtype: str) -> Iterator[Figure]:
    """Measure images per second of ResNet20 at batch 20, in turns with a plain PyTorch loop."""
    make_deterministic(1)
    made, half = random_images(), dtype == "bfloat16"
    config = configured("resnet20-e1", local_steps=10, dtype=dtype)
    trial = federation("resnet20-e1", made, local_steps=10, dtype=dtype)
    plain = built(config, made).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    normalize = batches.Normalize(made, torch.float32, torch.device("cpu"))

    def loop() -> None:
        for start in range(0, 2000, 20):
            optimizer.zero_grad()
            batch = normalize(made.train.images[start : start + 20])
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = plain(batch)
            labels = made.train.labels[start : start + 20]
            nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]  # unannotated
            nn.utils.clip_grad_norm_(plain.parameters(), 10.0)
            optimizer.step()

    loop()
    ours, others = [], []
    for number in range(N):
        ours += [2000 / s for s in rounds(trial, 1, number + 2)]
        others.append(2000 / timed(loop))
    yield Figure(f"ResNet20, batch 20, {dtype}: engine", "", "images/s", ours)
    yield Figure("the same, plain PyTorch loop", "", "images/s", others)
    ratio = [a / b for a, b in zip(ours, others, strict=True)]
    yield Figure(f"engine / plain loop, {dtype}", "≥ 0.95", "", ratio)


FIRST_ROUND = """
import sys, time
from tests.benchmarks.cases import configured, dataset
from trainers import fedavg, models
from trainers.numerics import make_deterministic
import sklearn.datasets, sklearn.model_selection
case = sys.argv[1]
began = time.perf_counter()
make_deterministic(1)
trial = fedavg._Federation(configured(case), dataset(case), fedavg.torch.device("cpu"))
trial.train(1, sorted)
print(time.perf_counter() - began)
"""


def first_round() -> Iterator[Figure]:
    """Measure the time from the last import to the first average, in another process."""
    for case in ("cnn-e5", "resnet20-e1"):
        seconds = [float(ask(FIRST_ROUND, case)) for _ in range(N)]
        yield Figure(f"first round after import, {case}", "≤ 1.5", "s", seconds)


MEMORY = """
import sys
from tests.benchmarks.cases import configured, random_images
from trainers import fedavg
from trainers.numerics import make_deterministic
make_deterministic(1)
clients, momentum = int(sys.argv[1]), sys.argv[2]
config = configured("resnet20-e1", clients=clients, participation=10 / clients, momentum=momentum)
trial = fedavg._Federation(config, random_images(20_000), fedavg.torch.device("cpu"))
for number in range(1, 6):
    trial.train(number, sorted)
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def memory() -> Iterator[Figure]:
    """Measure the peak memory of five rounds with ten clients of ten, and of ten thousand."""
    for momentum in ("reset", "local"):
        for clients in (10, 10_000):
            name = f"memory, {clients:,} registered clients, {momentum}"
            yield Figure(name, "", "MiB", [float(ask(MEMORY, str(clients), momentum))])


def snapshots(folder: Path) -> Iterator[Figure]:
    """Measure the time to write and sync a snapshot, as a fraction of a round."""
    make_deterministic(1)
    trial = federation("resnet20-e20")
    shares = []
    for number, seconds in enumerate(rounds(trial, 3), 2):

        def snapshot(number: int = number) -> None:
            with (folder / f"{number}.safetensors").open("wb") as file:
                file.write(save(trial.state(number).tensors))
                file.flush()
                os.fsync(file.fileno())

        shares.append(100 * timed(snapshot) / seconds)
    yield Figure("snapshot each round, ResNet20, E = 20, reset", "≤ 1", "% of a round", shares)


def slot(case: str, dtype: str, count: int, barrier: Any, out: Any) -> None:
    """Train a trial in one of two processes. Report rounds per second."""
    make_deterministic(1)
    trial = federation(case, dtype=dtype)
    barrier.wait()
    seconds = sum(rounds(trial, count))
    out.put(count / seconds)


def machine(case: str, dtype: str, count: int) -> float:
    """Return rounds per second of two slots with a trial each."""
    spawn = get_context("spawn")
    barrier, out = spawn.Barrier(2), spawn.Queue()
    slots = [spawn.Process(target=slot, args=(case, dtype, count, barrier, out)) for _ in range(2)]
    for process in slots:
        process.start()
    rate = sum(out.get(timeout=600) for _ in slots)
    for process in slots:
        process.join()
    return float(rate)


def flower() -> Iterator[Figure]:
    """Measure rounds per second of two slots, in turns with two actors of Flower."""
    if not FLOWER.exists():
        print(f"Flower: not measured, there is no {FLOWER}: `make bench` makes it")
        return
    turns = 3
    cases = [("resnet20-e1", 8, ["float32"]), ("resnet20-e20", 3, ["float32", "bfloat16"])]
    for case, count, dtypes in [*cases, ("cnn-e5", 30, ["float32"])]:
        others: list[float] = []
        first: list[float] = []
        ours: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
        for _ in range(turns):
            for dtype in dtypes:
                ours[dtype].append(machine(case, dtype, count))
            timing = json.loads(flower_says(case, count + 1))
            others.append(1 / statistics.median(timing["round_s"]))
            first.append(timing["first_round_s"])
        yield Figure(f"{case}: Flower {timing['flower']}", "", "rounds/s", others)
        yield Figure(f"{case}: Flower's first round", "", "s", first)
        for dtype in dtypes:
            target = {"resnet20-e1": 2, "cnn-e5": 20}.get(case, 1.1 if dtype == "float32" else 1.6)
            yield Figure(f"{case}, {dtype}: two slots", "", "rounds/s", ours[dtype])
            ratio = [a / b for a, b in zip(ours[dtype], others, strict=True)]
            yield Figure(f"{case}, {dtype}: two slots / Flower", f"≥ {target:g}", "", ratio)


def flower_says(case: str, count: int, *options: str) -> str:
    """Return one line of JSON."""
    call = [FLOWER, "-m", "tests.benchmarks.flower", case, str(count), *options]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def ask(program: str, *arguments: str) -> str:
    """Run a program in another process. Return its output."""
    call = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def parts(folder: Path) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {
        "outside": outside,
        "drawing": drawing,
        "loop": lambda: plain_loop("float32"),
        "loop-bf16": lambda: plain_loop("bfloat16"),
        "first": first_round,
        "memory": memory,
        "snapshot": lambda: snapshots(folder),
        "flower": flower,
    }
