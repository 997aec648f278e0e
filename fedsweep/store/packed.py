"""Rows of many trials in little memory: trials of a cell share the values of its configuration."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class PackedRow(Mapping[str, Any]):
    """A row that only reads; it shares equal values with other rows."""

    __slots__ = ("_places", "_shared", "_values")

    def __init__(
        self, places: Mapping[str, int], shared: tuple[Any, ...], values: tuple[Any, ...]
    ) -> None:
        """Take the place of each name: from 0 in `values`, from -1 downward in `shared`."""
        self._places = places
        self._shared = shared
        self._values = values

    def __getitem__(self, name: str) -> Any:
        place = self._places[name]
        return self._values[place] if place >= 0 else self._shared[~place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def pack(
    names: Sequence[str], rows: Iterable[Sequence[Any]], shared: frozenset[str]
) -> list[PackedRow]:
    """Return rows of these names; combinations of the values of `shared` are kept once."""
    common = [n for n, name in enumerate(names) if name in shared]
    own = [n for n, name in enumerate(names) if name not in shared]
    where = {n: ~place for place, n in enumerate(common)} | {n: p for p, n in enumerate(own)}
    places = {name: where[n] for n, name in enumerate(names)}
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    packed = []
    for row in rows:
        # Equal values of different types (1 and 1.0) must stay apart: their types are in the key.
        values = tuple([row[n] for n in common])
        key = (*values, *map(type, values))
        packed.append(
            PackedRow(places, known.setdefault(key, values), tuple([row[n] for n in own]))
        )
    return packed


class PackedCurve(Mapping[int, float]):
    """A measure by round that only reads; it shares its rounds with other curves."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[int, int], values: array[float]) -> None:
        """Take the place of each round in `values`."""
        self._places = places
        self._values = values

    def __getitem__(self, round: int) -> float:
        return self._values[self._places[round]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class CurvePacker:
    """Pack curves that mostly have the same rounds."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], dict[int, int]] = {}

    def pack(self, points: Iterable[tuple[int, float]]) -> PackedCurve:
        """Return a curve of these rounds and values."""
        values = array("d")
        rounds = []
        for round, value in points:
            rounds.append(round)
            values.append(value)
        key = tuple(rounds)
        if key not in self._known:
            self._known[key] = {round: place for place, round in enumerate(rounds)}
        return PackedCurve(self._known[key], values)
