"""Plan, claim and execute one trial; read what it stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.measures import COMPARED
from fedsweep.plans import Round, TrainConfig, read_plan
from fedsweep.states import Outcome
from fedsweep.store import artifacts, file_places, planning, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import rounds
from fedsweep.store.transactions import reading, transaction
from tests.builders import WORKER
from trainers import fedavg, numerics
from trainers.data import datasets


def planned(store: Engine, plan: Path, *changes: str) -> None:
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(plan, changes).alone())


def claim(store: Engine) -> Claim:
    with transaction(store) as c:
        claimed = queue.claim(c, WORKER, read_clock(c))
    assert claimed is not None
    return claimed


def run(
    store: Engine, claimed: Claim, place: Place | None = None, stop_after: int | None = None
) -> tuple[Outcome | None, list[Round]]:
    seen: list[Round] = []

    def stop() -> bool:
        return stop_after is not None and len(seen) >= stop_after

    end = execute(store, claimed, place or Place(), stop, seen.append)
    return end and end.outcome, seen


def result(store: Engine, claimed: Claim) -> dict[str, Any]:
    with reading(store) as c:
        return trial_rows.trial_result(c, claimed.trial_id)


def folder(store: Engine, claimed: Claim) -> Path:
    """Return the folder of the trial's files on this machine."""
    with reading(store) as c:
        return Path(str(artifacts.folder_of(store.url, file_places.home(c, claimed.trial))))


def stored(store: Engine, claimed: Claim) -> list[tuple[Any, ...]]:
    columns = [rounds.c[name] for name in ("round", *COMPARED)]
    query = sa.select(*columns).where(rounds.c.trial == claimed.trial).order_by(rounds.c.round)
    with reading(store) as c:
        return [tuple(row) for row in c.execute(query)]


def direct(claimed: Claim) -> list[tuple[Any, ...]]:
    """Return the rounds of the trainer without a store."""
    numerics.make_deterministic(1)
    rounds = fedavg.run(TrainConfig(**claimed.config), datasets.load("digits"))
    return [tuple(_plain(getattr(r, n)) for n in ("round", *COMPARED)) for r in rounds]


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value
