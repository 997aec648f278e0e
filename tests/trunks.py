"""A sweep of eleven T* trials that share one trunk, and its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.states import Outcome
from fedsweep.store import planning
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import rounds, trials
from fedsweep.store.transactions import reading, transaction
from tests.builders import WORKER

T = 10


PROTOCOL = f"""
name = "shared"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = {T}
local_steps = 2
batch_size = 8
lr = 0.05
clip_norm = 1.0
alpha = 0.5
"""


PLAN = f"""{PROTOCOL}
[[grid]]
normalizer = "fixbn"
freeze_round = ["0%", "10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "100%"]
"""


Curves = dict[str, list[tuple[Any, ...]]]


def plan(store: Engine, sweep: SweepSpec) -> None:
    with transaction(store) as c:
        planning.add_sweep(c, sweep)


def work(store: Engine) -> int:
    """Let one worker run all trials. Return their number."""
    count = 0
    while True:
        with transaction(store) as c:
            claim = queue.claim(c, WORKER, read_clock(c))
        if claim is None:
            return count
        end = execute(store, claim, Place(), lambda: False, lambda _: None)
        assert end is not None
        assert end.outcome is Outcome.FINISHED, end
        count += 1


def measured(store: Engine) -> Curves:
    """Return every trial's rounds, without their seconds and their trainers."""
    names = [c for c in rounds.c if c.name not in ("trial", "seconds", "inherited")]
    query = sa.select(trials.c.trial_id, *names).join(rounds, rounds.c.trial == trials.c.id)
    curves: Curves = {}
    with reading(store) as c:
        for row in c.execute(query.order_by(trials.c.trial_id, rounds.c.round)):
            curves.setdefault(row[0], []).append(tuple(row[1:]))
    return curves


def trained(store: Engine) -> int:
    with reading(store) as c:
        return int(c.execute(sa.text("SELECT sum(rounds_trained) FROM attempts")).scalar_one())


def train_alone(folder: Path) -> None:
    """Train the same trials in a store of this folder, without a shared trunk."""
    (folder / "shared.toml").write_text(PLAN)
    store = open_store(f"sqlite:///{folder}/alone.db", create=True)
    plan(store, read_plan(folder / "shared.toml").alone())
    work(store)
    assert trained(store) == 11 * T
    store.dispose()


def has_stored(store: Engine, more_than: int) -> bool:
    own = sa.select(sa.func.count()).where(rounds.c.inherited == 0)
    with reading(store) as c:
        return bool(c.execute(own).scalar_one() > more_than)
