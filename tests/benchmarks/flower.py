"""Flower's simulation, the peer of the engine: `python -m tests.benchmarks.flower CASE ROUNDS`.

The actors, each with one processor and one thread, train without evaluation. By default there are
two of them, on a CPU. Model, data and batches are the engine's. The program prints one line of
JSON, with times in seconds.

Flower needs older versions of typer, rich and packaging than constraints.txt pins. Its own
environment is made by

    pip install torch torchvision numpy pydantic scikit-learn pillow filelock platformdirs
    pip install 'flwr[simulation]'

As a plain script it needs PYTHONPATH to name the repository's root.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import argparse
import json
import time
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import ray  # noqa: F401  # so that its import is not in the first round
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from tests.benchmarks.cases import CASES, CLIENTS, built, configured, dataset
from tests.benchmarks.workshop import Workshop

workshop = cache(Workshop)
"""One per process. Actors import this module, so their clients share the cache."""


def train(message: Message, context: Context) -> Message:
    """Train a client's round."""
    options = message.content["config"]
    shop = workshop(str(options["case"]), str(options["device"]))
    client = int(context.node_config["partition-id"])
    shop.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = shop.fit(int(options["server-round"]), client)
    metrics = MetricRecord({"num-examples": len(shop.samples[client]), "train-loss": loss})
    arrays = ArrayRecord({name: t.cpu() for name, t in shop.model.state_dict().items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes the end of each round's average."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.done: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, and note the time."""
        replies = list(replies)
        if any(reply.has_error() for reply in replies):
            raise RuntimeError(f"a client failed in round {server_round}")
        averaged = super().aggregate_train(server_round, replies)
        self.done.append(time.perf_counter())
        return averaged


def measure(case: str, rounds: int, device: str = "cpu", actors: int = 2) -> dict[str, Any]:
    """Run a case. Return its times in seconds and its last training loss.

    The actors share one GPU equally, if the device is one.
    """
    began = time.perf_counter()
    torch.set_num_threads(1)
    strategy, losses = Timed(), []
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(train)

    @server_app.main()
    def serve(grid: Grid, _context: Context) -> None:
        model = built(configured(case), dataset(case))
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=rounds,
            train_config=ConfigRecord({"case": case, "device": device}),
        )
        losses.append(result.train_metrics_clientapp[rounds]["train-loss"])

    gpus = int(device.startswith("cuda"))
    run_simulation(
        server_app,
        client_app,
        num_supernodes=CLIENTS,
        backend_config={
            "init_args": {"num_cpus": actors, "num_gpus": gpus},
            "client_resources": {"num_cpus": 1, "num_gpus": gpus / actors},
        },
    )
    return {
        "case": case,
        "flower": version("flwr"),
        "ray": version("ray"),
        "first_round_s": strategy.done[0] - began,
        "round_s": np.diff(strategy.done).tolist(),
        "train_loss": losses[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--actors", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(measure(given.case, given.rounds, given.device, given.actors)))


if __name__ == "__main__":
    # By its name, so that an actor imports the functions rather than being sent copies.
    import_module("tests.benchmarks.flower").main()
