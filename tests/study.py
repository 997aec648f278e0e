"""A small study with known numbers, so that its report can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plans import ClientScore, Round, read_plan
from fedsweep.states import FailureKind
from fedsweep.store import planning, round_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.transactions import transaction

PLAN = """
name = "study"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = 3
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.5
[[grid]]
normalizer = ["bn", "gn"]
momentum = ["reset", "global"]
seed = [0, 1]
[[grid]]
normalizer = "fixbn"
freeze_round = [1, 2]
seed = [0, 1]
"""

CURVES: dict[tuple[str, int | None, str, int], list[float]] = {
    ("bn", None, "reset", 0): [0.2, 0.5, 0.80],
    ("bn", None, "reset", 1): [0.1, 0.4, 0.60],
    ("gn", None, "reset", 0): [0.3, 0.6, 0.70],
    ("gn", None, "reset", 1): [0.3, 0.5, 0.66],
    ("bn", None, "global", 0): [0.6, 0.7, 0.90],
    ("bn", None, "global", 1): [0.5, 0.6, 0.70],
    ("gn", None, "global", 0): [0.6, 0.7, 0.75],
    ("gn", None, "global", 1): [0.4],
    ("fixbn", 1, "reset", 0): [0.2, 0.78, 0.84],
    ("fixbn", 1, "reset", 1): [0.1, 0.5, 0.72],
    ("fixbn", 2, "reset", 0): [0.2, 0.5, 0.82],
    ("fixbn", 2, "reset", 1): [0.1, 0.4, 0.70],
}
"""Test accuracy by round, of normalizer, T*, momentum and seed. A shorter one diverges then."""

SECONDS = {"bn": 0.25, "gn": 0.5, "fixbn": 0.125}
"""Seconds per round."""


def fill(store: Engine, folder: Path) -> None:
    """Plan the study and let one worker run all of it, without sharing."""
    file = folder / "study.toml"
    file.write_text(PLAN)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file).alone())
        worker = queue.Claimant("host-1-0-abcdef", "cpu", "host", 1)
        while (claim := queue.claim(connection, worker, read_clock(connection))) is not None:
            run(connection, claim)


def run(connection: Connection, claim: Claim) -> None:
    """Store a trial's rounds and its end."""
    config: dict[str, Any] = {"freeze_round": None, "momentum": "reset", **claim.config}
    curve = CURVES[tuple(config[k] for k in ("normalizer", "freeze_round", "momentum", "seed"))]
    frozen = config["freeze_round"] or 3
    round_rows.add_rounds(
        connection,
        claim,
        [
            _measured(round, accuracy, "explore" if round <= frozen else "calibrate", config)
            for round, accuracy in enumerate(curve, start=1)
        ],
    )
    if len(curve) < 3:
        now = read_clock(connection)
        queue.fail(connection, claim, now, FailureKind.DIVERGED, "the loss is nan in round 2")
    else:
        queue.finish(connection, claim)


def _measured(round: int, accuracy: float, phase: str, config: dict[str, Any]) -> Round:
    seconds = SECONDS[config["normalizer"]]
    clients = (ClientScore(0, 10, accuracy),) if config["normalizer"] == "bn" else ()
    return Round(
        round, phase, 1.0 / round, 1 - accuracy, accuracy, None, None, 100, 200, seconds,
        clients=clients,
    )  # fmt: skip
