"""A small finished sweep for the tests of figures: BN, GN and FIXBN at two α, over three seeds."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.tables import rounds, trials
from fedsweep.store.transactions import transaction

PROTOCOL = """
name = "study"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = 12
local_steps = 2
batch_size = 8
"""
PLAN = (
    PROTOCOL
    + """
lr = 0.05
[[grid]]
normalizer = ["bn", "gn"]
alpha = [0.1, 1.0]
seed = [0, 1, 2]
[[grid]]
normalizer = "fixbn"
freeze_round = [3, 6]
alpha = [0.1, 1.0]
seed = [0, 1, 2]
"""
)

TUNED = (
    PROTOCOL
    + """
validation = 0.1
alpha = 0.1
[[grid]]
normalizer = ["bn", "gn"]
lr = [0.05, 0.1]
seed = [0, 1]
[[grid]]
normalizer = "fixbn"
freeze_round = [3, 6]
lr = [0.05, 0.1]
seed = [0, 1]
"""
)

LEVEL = {"bn": 0.5, "gn": 0.6, "fixbn": 0.65}
"""The accuracy of each normalizer in the middle of its trials."""


def accuracy(trial: sa.Row, number: int) -> float:
    """Return a trial's accuracy in a round. FIXBN equals BN up to T*."""
    is_trunk = trial.normalizer == "fixbn" and number <= trial.freeze_round
    level = LEVEL["bn" if is_trunk else trial.normalizer]
    frozen = 0 if is_trunk or trial.freeze_round is None else trial.freeze_round / 100
    wave = 0.04 if number % 2 else -0.04
    return level + frozen + wave + trial.alpha / 10 + trial.seed / 64 + number / 128


def plan(store: Engine, folder: Path) -> None:
    """Add the sweep."""
    file = folder / "study.toml"
    file.write_text(PLAN)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))


def finish(connection: Connection, *where: sa.ColumnElement[bool]) -> None:
    """Store all rounds of the trials that pass a filter, and finish them."""
    columns = ("id", "normalizer", "freeze_round", "alpha", "seed", "rounds")
    for trial in connection.execute(sa.select(*(trials.c[n] for n in columns)).where(*where)).all():
        numbers = range(1, trial.rounds + 1)
        values = {"phase": "explore", "train_loss": 1.0, "seconds": 0.1, "bytes_up": 1}
        values |= {"trial": trial.id, "bytes_down": 1, "test_loss": 0.5}
        connection.execute(
            sa.insert(rounds),
            [values | {"round": n, "test_accuracy": accuracy(trial, n)} for n in numbers],
        )
        final = {"state": "finished", "test_accuracy": accuracy(trial, trial.rounds), "waits": 0}
        update = sa.update(trials).where(trials.c.id == trial.id)
        connection.execute(update.values(**final, final_round=trial.rounds))


def fill(store: Engine, folder: Path) -> None:
    """Add the sweep, and finish its trials."""
    plan(store, folder)
    with transaction(store) as connection:
        finish(connection)


def fill_tuned(store: Engine, folder: Path, name: str = "study", plan: str = TUNED) -> None:
    """Add a sweep of two learning rates, and finish it.

    FIXBN validates best at another learning rate than BN and GN.
    """
    file = folder / "tuned.toml"
    file.write_text(plan.replace('"study"', f'"{name}"'))
    is_best = (trials.c.lr == 0.05) == (trials.c.normalizer == "fixbn")
    merit = sa.case((is_best, 0.7), else_=0.6) + sa.func.coalesce(trials.c.freeze_round, 0) / 1000.0
    mine = trials.c.validation == 0.1
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
        finish(connection, mine)
        connection.execute(trials.update().where(mine).values(validation_accuracy=merit))


def ids(store: Engine, **fields: object) -> list[str]:
    """Return the ids of the trials with these values, in the order of planning."""
    conditions = [trials.c[name] == value for name, value in fields.items()]
    query = sa.select(trials.c.trial_id).where(*conditions).order_by(trials.c.id)
    with store.connect() as connection:
        return list(connection.execute(query).scalars())
