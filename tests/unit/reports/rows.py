"""Rows of results, as the store returns them."""

from __future__ import annotations

from typing import Any

from fedsweep.measures import COMPARABLE
from fedsweep.reports.grouping import FIELDS


def trial(normalizer: str, seed: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    """Return a row of `results`."""
    row: dict[str, Any] = dict.fromkeys((*FIELDS, *COMPARABLE))
    row |= {
        "alpha": 0.1,
        "local_steps": 5,
        "momentum": "reset",
        "lr": 0.05,
        "clients": 10,
        "rounds": 16,
    }
    row |= {"trial_id": f"{normalizer}{seed}{more}", "normalizer": normalizer, "seed": seed}
    state = "finished" if accuracy is not None else "queued"
    row |= {"test_accuracy": accuracy, "state": state, "failure": None, "error": None}
    row |= more
    parts = [f"{name}={row[name]}" for name in FIELDS if name != "seed" and row[name] is not None]
    return row | {"cell_id": " ".join(parts)}


def failed(normalizer: str, seed: int, kind: str = "diverged") -> dict[str, Any]:
    why = "the training loss of round 3 is inf"
    return trial(normalizer, seed, None, state="failed", failure=kind, error=why)


ROWS = [
    *[trial("gn", s, a) for s, a in enumerate((0.80, 0.82, 0.87))],
    *[trial("bn", s, a) for s, a in enumerate((0.90, 0.92, 0.97))],
    *[trial("fixbn", s, a, freeze_round=12) for s, a in enumerate((0.91, 0.95))],
    failed("fixbn", 2) | {"freeze_round": 12},
    trial("fixbn", 0, 0.5, freeze_round=6),
    trial("fixbn", 1, None, freeze_round=6),
    trial("fixbn", 2, None, freeze_round=6, state="running"),
]
