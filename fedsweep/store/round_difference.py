"""Differences between a round that was trained again and the stored one. Pure: rows and values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedsweep.measures import BY_LAYER, COMPARED, OF_ROUNDS
from fedsweep.plans import ClientScore, Round


@dataclass(frozen=True)
class Differs:
    """A number of a round that was trained again and differs from the stored number."""

    round: int
    column: str
    stored: float | str | None
    again: float | str | None

    @property
    def apart(self) -> float:
        """The distance between the two values. If they hold several layers, the largest distance.

        It is infinite if a value is missing, or if the values are not numbers.
        """
        one, other = _numbers(self.stored), _numbers(self.again)
        if one is None or other is None or one.keys() != other.keys():
            return math.inf
        return max((abs(one[name] - other[name]) for name in one), default=math.inf)


def _numbers(value: float | str | None) -> dict[str, float] | None:
    """Return a number, or the numbers of layers, by name."""
    if isinstance(value, str):
        return json.loads(value) if value.startswith("{") else None
    return None if value is None else {"": value}


def as_stored(measured: Round) -> dict[str, Any]:
    """Return a round's own columns, with its layers as JSON."""
    names = ("round", "phase", *(measure.name for measure in OF_ROUNDS))
    row = {name: getattr(measured, name) for name in names}
    layers = {name: row[name] for name in BY_LAYER if row[name] is not None}
    return row | {name: json.dumps(dict(numbers)) for name, numbers in layers.items()}


def differences(
    stored: Mapping[Any, Any], clients: Mapping[int, ClientScore], again: Round
) -> Iterator[Differs]:
    """Yield every number of a round that differs from the stored one, bit for bit.

    `stored` is the round's row by column. `clients` are the stored rows of its clients.
    """
    row = as_stored(again)
    for column in COMPARED:
        if stored[column] != row[column]:
            yield Differs(again.round, column, stored[column], row[column])
    measured = {score.client: score for score in again.clients}
    for client in [*measured, *(m for m in clients if m not in measured)]:
        for name in ("test_accuracy", "samples", "own_accuracy", "own_samples"):
            one, other = (getattr(s.get(client), name, None) for s in (clients, measured))
            if one != other:
                yield Differs(again.round, f"{name} of client {client}", one, other)
