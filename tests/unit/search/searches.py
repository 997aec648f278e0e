"""A sweep that searches T* for one arm, and a worker's steps on it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.actions.plan import add_within
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.search.planner import plan_next
from fedsweep.states import Outcome
from fedsweep.store import arms
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import proposals
from fedsweep.store.transactions import reading, transaction
from tests.builders import WORKER
from tests.trunks import T

PLAN = f"""
name = "searched"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = {T}
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.3
validation = 0.2
[[grid]]
normalizer = ["bn", "gn", "fixbn"]
seed = [0, 1]
[search]
freeze_round = {{ low = 0, high = "100%", step = "20%" }}
probes_per_arm = 5
extra_seeds = 1
"""


def of(folder: Path, text: str) -> SweepSpec:
    (folder / "searched.toml").write_text(text)
    return read_plan(folder / "searched.toml")


def plan(store: Engine, sweep: SweepSpec, priority: int = 0) -> None:
    with transaction(store) as c:
        add_within(c, sweep, priority)


def claimed(store: Engine, sweep: str | None = None) -> Claim | None:
    with transaction(store) as c:
        return queue.claim(c, WORKER, read_clock(c), sweep=sweep)


def run(store: Engine, claim: Claim) -> None:
    end = execute(store, claim, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert end.outcome is Outcome.FINISHED, end


def work(store: Engine) -> int:
    """Work until there is nothing to claim or to propose. Return the number of trials that ran."""
    count = 0
    while True:
        claim = claimed(store)
        if claim is None:
            if not plan_next(store):
                return count
            continue
        run(store, claim)
        count += 1


def grid_done(store: Engine) -> None:
    """Train all trials of the plan, and propose none."""
    while (claim := claimed(store)) is not None:
        run(store, claim)


def the_arm(store: Engine) -> arms.Arm:
    with reading(store) as c:
        (arm,) = arms.of_sweep(c, "searched")
    return arm


def points(store: Engine) -> list[int | None]:
    with reading(store) as c:
        query = sa.select(proposals.c.freeze_round).order_by(proposals.c.number)
        return list(c.execute(query).scalars())
