"""Operations of a local step and waits of a test: python -m tests.benchmarks.operations.

They are counted on a CPU, in the form that a GPU captures. The counts of a GPU are larger, because
it splits some operations into several kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.cases import configured, random_images
from tests.tape import Tape
from tests.unit.trainers.fake_cuda import FakeCuda
from trainers import fedavg
from trainers.config import NORMALIZERS
from trainers.data.dataset import Dataset
from trainers.graph import Graphs
from trainers.numerics import make_deterministic

CASES: dict[str, dict[str, Any]] = {
    **{name: {"normalizer": name} for name in NORMALIZERS},
    "fixbn": {"normalizer": "fixbn", "freeze_round": 0},
    "bn, bfloat16": {"dtype": "bfloat16"},
}
"""ResNet20 with batches of 20, crop and flip, clipping, weight decay and momentum."""


def trial_of(made: Dataset, changes: dict[str, Any]) -> Any:
    """Return a trial in its first round."""
    fields = {"augment": True, "weight_decay": 2e-4, "decay_norm": False, **changes}
    config = configured("resnet20-e1", **fields)
    trial = fedavg._Federation(config, made, torch.device("cpu"), Graphs(FakeCuda(), capture=False))
    trial.begin(1)
    trial.load(0)
    trial.momentum.start(0)
    return trial


def tape_of_step(trial: Any) -> Tape:
    """Return a tape of a local step."""
    drawn = trial.local.positions(1, 0)
    trained, _ = trial.begin(1)
    steps = trial.local.steps_of(drawn, trained, trial.graphs)
    steps.begin(drawn)
    with Tape() as tape:
        steps.take()
    return tape


def tapes_of_test(trial: Any) -> tuple[Tape, Tape]:
    """Return tapes of a test: of its batches on the device, and of reading the results."""
    trial.score(trial.data.test, None)
    evaluation = trial.evaluations[trial.data.test]
    with Tape() as batches:
        evaluation.launch()
    with Tape() as reading:
        evaluation.read()
    return batches, reading


def main() -> None:
    """Print the table."""
    make_deterministic(1)
    made = random_images(400)
    table = Table()
    for heading in ("case", "kernels", "views", "waits of a step", "of a test", "copies to host"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for name, changes in CASES.items():
        trial = trial_of(made, changes)
        step = tape_of_step(trial)
        batches, reading = tapes_of_test(trial)
        counts = (
            step.kernels.total(), step.views, len(step.waits), len(batches.waits),
            reading.waits.count("cpu"),
        )  # fmt: skip
        table.add_row(name, *map(str, counts))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
