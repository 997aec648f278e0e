"""Plans and workers that many tests use."""

from __future__ import annotations

from pathlib import Path

from fedsweep import queue

REPOSITORY = Path(__file__).parent.parent


TINY = """
name = "tiny"
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
seed = [0, 1]
[[grid]]
normalizer = "fixbn"
freeze_round = 1
seed = [0, 1]
"""
"""A sweep of six trials. They take about a second together."""


def silent(_part: str, _done: int, _total: int | None) -> None:
    """Show no progress."""


WORKER = queue.Claimant("w", "cpu", "host", 1)
"""The worker that claims trials in tests which need only one."""
