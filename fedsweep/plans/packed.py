"""The trials of a plan in little memory."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, overload

from fedsweep.plans.trials import TrialSpec, more_measured
from trainers.config import (
    TrainConfig,
)


class Trials(Sequence[TrialSpec]):
    """The trials of a plan, each once, in about 200 bytes each.

    Trials share groups of configuration values. A configuration is built again when its trial is
    read.
    """

    def __init__(self, trials: Iterable[TrialSpec] = (), *, shared: bool = True) -> None:
        self.shared = shared
        """True if the trials share their trunks."""
        self._rows: list[_Row] = []
        self._places: dict[str, int] = {}
        self._pool: dict[Any, Any] = {}
        self._like: TrainConfig | None = None
        for trial in trials:
            self.add(trial)

    @classmethod
    def of(cls, trials: Iterable[TrialSpec]) -> Trials:
        """Return these trials unchanged if they are `Trials` already, otherwise packed."""
        return trials if isinstance(trials, cls) else cls(trials)

    def add(self, trial: TrialSpec) -> None:
        """Add a trial. If it exists, it then measures and keeps everything that either spelling
        asks for.
        """
        place = self._places.get(trial.trial_id)
        if place is None:
            self._places[trial.trial_id] = len(self._rows)
            self._rows.append(self._packed(trial))
        elif (before := self[place].config) != trial.config:
            more = more_measured(before, trial.config)
            self._rows[place] = self._packed(TrialSpec.of(more))

    def without(self, ids: Container[str]) -> Trials:
        """Return the trials that have none of these ids."""
        rest = Trials(shared=self.shared)
        rest._rows = [row for row in self._rows if row[0] not in ids]
        rest._places = {row[0]: place for place, row in enumerate(rest._rows)}
        rest._pool, rest._like = self._pool, self._like
        return rest

    def alone(self) -> Trials:
        """Return the same trials, without trunks."""
        trials = copy(self)
        trials.shared = False
        return trials

    @property
    def ids(self) -> list[str]:
        """The ids of the trials, in order."""
        return list(self._places)

    @property
    def configs(self) -> Iterator[TrainConfig]:
        """The configurations of the trials, in order."""
        return map(self._config, self._rows)

    def distinct(self, *fields: str) -> Iterator[TrainConfig]:
        """Yield the first configuration of each combination of values of these fields, in order."""
        read = _reading(*fields)
        seen: set[Any] = set()
        for row in self._rows:
            if (key := read(row)) not in seen:
                seen.add(key)
                yield self._config(row)

    @property
    def values(self) -> dict[str, list[Any]]:
        """The values of each field but the seed, each once, in the order of the trials."""
        found: dict[str, list[Any]] = {}
        for n, names in enumerate(_groups()):
            groups = dict.fromkeys(map(operator.itemgetter(4 + n), self._rows))
            for place, name in enumerate(names, 1):
                found[name] = list(dict.fromkeys(group[place] for group in groups))
        return found

    @property
    def rounds(self) -> int:
        """The rounds of all trials, counted as if they shared none."""
        return sum(itertools.starmap(int, map(_reading("rounds"), self._rows)))

    @property
    def forks(self) -> Iterator[tuple[str, str, int]]:
        """The id, the trunk and the fork round of each trial that has a trunk, in order."""
        read = _reading("rounds", "freeze_round")
        for row in self._rows if self.shared else ():
            if row[2] is not None:
                rounds, freeze_round = read(row)
                yield row[0], row[2], rounds if freeze_round is None else freeze_round

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> TrialSpec: ...

    @overload
    def __getitem__(self, place: slice) -> Trials: ...

    def __getitem__(self, place: int | slice) -> TrialSpec | Trials:
        if isinstance(place, slice):
            return Trials(map(self._unpacked, self._rows[place]), shared=self.shared)
        return self._unpacked(self._rows[place])

    def __iter__(self) -> Iterator[TrialSpec]:
        return map(self._unpacked, self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trials):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self._places))

    def _packed(self, trial: TrialSpec) -> _Row:
        self._like = self._like or trial.config
        values, keep = trial.config.__dict__, self._pool.setdefault
        groups = ((n, *map(values.__getitem__, names)) for n, names in enumerate(_groups()))
        cell, trunk = keep(trial.cell_id, trial.cell_id), keep(trial.trunk, trial.trunk)
        return (trial.trial_id, cell, trunk, values["seed"], *(keep(g, g) for g in groups))

    def _unpacked(self, row: _Row) -> TrialSpec:
        return TrialSpec(row[0], row[1], self._config(row), row[2] if self.shared else None)

    def _config(self, row: _Row) -> TrainConfig:
        assert self._like is not None
        values = itertools.chain.from_iterable(group[1:] for group in row[4:])
        update = {"seed": row[3], **dict(zip(_grouped(), values, strict=True))}
        return self._like.model_copy(update=update)


_Row = tuple[Any, ...]
"""A trial's id, cell, trunk and seed, and the groups of its other values."""


GROUP = 8
"""Number of fields in a group. In a grid, few axes fall into the same group, so few groups
differ.
"""


@functools.cache
def _grouped() -> tuple[str, ...]:
    return tuple(name for name in TrainConfig.model_fields if name != "seed")


def _reading(*fields: str) -> Callable[[_Row], tuple[Any, ...]]:
    """Return a function that reads these fields of a packed trial."""
    names = _grouped()
    places = [
        (3, None)
        if name == "seed"
        else (4 + names.index(name) // GROUP, 1 + names.index(name) % GROUP)
        for name in fields
    ]
    return lambda row: tuple([row[g] if at is None else row[g][at] for g, at in places])


@functools.cache
def _groups() -> tuple[tuple[str, ...], ...]:
    names = _grouped()
    return tuple(names[i : i + GROUP] for i in range(0, len(names), GROUP))
