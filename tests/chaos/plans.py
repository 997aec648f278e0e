"""The plans of a run: copies of one small sweep, each with its own seed."""

from __future__ import annotations

from pathlib import Path

_TEXT = """
name = "{name}"

[protocol]
dataset = "digits"
model = "cnn"
clients = 6
participation = 0.5
rounds = 80
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.5
validation = 0.1
seed = {seed}

[[grid]]
normalizer = ["bn", "gn"]
momentum = ["local", "global"]

[[grid]]
normalizer = "fixbn"
freeze_round = ["25%", 41]
momentum = ["reset", "local"]

[[grid]]
normalizer = ["fedbn", "silobn"]
momentum = "global"
client_accuracy = true
"""
"""Ten trials of one to three seconds, with several snapshots each.

Their snapshots hold frozen statistics, the server's buffer, each client's buffer, and per-client
layers.
"""

TRIALS = 10


def name(copy: int) -> str:
    return f"chaos-{copy}"


def write(folder: Path, copy: int) -> Path:
    """Write and return the plan file of a copy. No two copies share a trial."""
    file = folder / f"{name(copy)}.toml"
    file.write_text(_TEXT.format(name=name(copy), seed=copy))
    return file
