"""Flower's simulation, the peer of the engine: `python -m tests.benchmarks.flower CASE ROUNDS`.

Two actors, each with one processor and one thread, train without evaluation. Model, data and
batches are the engine's. The program prints one line of JSON, with times in seconds.

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
from torch import nn

from tests.benchmarks.cases import CASES, CLIENTS, built, configured, dataset
from trainers.data.batches import Normalize, local_batches
from trainers.partition import partition


class Workshop:
    """The objects that an actor's process reuses for its clients: data, partition, one model."""

    def __init__(self, case: str) -> None:
        torch.set_num_threads(1)
        self.config = configured(case)
        made = dataset(case)
        self.train = made.train
        self.samples = partition(made.train.labels.numpy(), self.config)
        self.normalize = Normalize(made, torch.float32, torch.device("cpu"))
        self.model = built(self.config, made).to(memory_format=torch.channels_last).train()

    def fit(self, round: int, client: int) -> float:
        """Train E local steps from the model's present state. Return the mean loss."""
        config, model = self.config, self.model
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum_factor or 0.0
        )
        batches = local_batches(self.samples[client], config, round, client)
        total = torch.zeros(())
        for batch in batches:
            optimizer.zero_grad()
            logits = model(self.normalize(self.train.images[batch]))
            loss = nn.functional.cross_entropy(logits, self.train.labels[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            total += loss.detach()
        return total.item() / len(batches)


workshop = cache(Workshop)
"""One per process. Actors import this module, so their clients share the cache."""


def train(message: Message, context: Context) -> Message:
    """Train a client's round."""
    options = message.content["config"]
    shop = workshop(str(options["case"]))
    client = int(context.node_config["partition-id"])
    shop.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = shop.fit(int(options["server-round"]), client)
    metrics = MetricRecord({"num-examples": len(shop.samples[client]), "train-loss": loss})
    arrays = ArrayRecord(shop.model.state_dict())
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


def measure(case: str, rounds: int) -> dict[str, Any]:
    """Run a case. Print its times in seconds and its last training loss."""
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
            train_config=ConfigRecord({"case": case}),
        )
        losses.append(result.train_metrics_clientapp[rounds]["train-loss"])

    run_simulation(
        server_app,
        client_app,
        num_supernodes=CLIENTS,
        backend_config={
            "init_args": {"num_cpus": 2, "num_gpus": 0},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
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
    given = parser.parse_args()
    print(json.dumps(measure(given.case, given.rounds)))


if __name__ == "__main__":
    # By its name, so that an actor imports the functions rather than being sent copies.
    import_module("tests.benchmarks.flower").main()
