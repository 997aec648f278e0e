"""What is asked for and what is measured, as frozen values; and the plan file they come from."""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import json
import math
import operator
import re
import tomllib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedsweep.errors import PlanError
from fedsweep.fields import ARM_FIELDS, MEASURED
from trainers.config import (
    LARGEST,
    OUTSIDE_IDENTITY,
    RECIPE,
    TINY_ALPHA,
    TrainConfig,
    canonical,
    check_feasible,
    recipe,
    share,
)
from trainers.measurements import ClientScore, Round
from trainers.text import BYTE_ORDER_MARK, NotUtf8, decode

__all__ = [
    "OUTSIDE_IDENTITY",
    "ArmSpec",
    "Budget",
    "Claim",
    "ClientScore",
    "Holdings",
    "Round",
    "SearchSpec",
    "SweepSpec",
    "TrainConfig",
    "TrialSpec",
    "Trials",
    "check_recipe",
    "read_plan",
]

ID_DIGITS = 20

AUTO = "auto"
"""A freeze round that the trial finds itself: see `trainers.freeze`."""


@dataclass(frozen=True)
class TrialSpec:
    """One trial to run. Equal configurations have equal ids, on every machine."""

    trial_id: str
    cell_id: str
    """The id of the configuration without its seed."""
    config: TrainConfig
    trunk: str | None = None
    """The id of what bn and fixbn trials have in common that differ in T* alone: BN's rounds up to
    the earlier of their freeze rounds. None where the trial shares nothing."""

    @classmethod
    def of(cls, config: TrainConfig) -> TrialSpec:
        """The trial of a configuration, with its ids."""
        identity = canonical(config)
        cell = {key: value for key, value in identity.items() if key != "seed"}
        trunk = trunk_of(config, identity)
        return cls(content_hash(identity), content_hash(cell), config, trunk)


def check_recipe(trial_id: str, config: TrainConfig) -> None:
    """Refuse to train a stored trial whose id was made under an earlier recipe.

    Raises:
        ValueError: today's code would compute other numbers under this id.

    """
    if recipe(config) != RECIPE and TrialSpec.of(config).trial_id != trial_id:
        raise ValueError(
            f"trial {trial_id} was planned by a release that dealt samples wrongly at "
            f"alpha < {TINY_ALPHA:g}: run its plan again, which makes a new trial"
        )


def trunk_of(config: TrainConfig, identity: Mapping[str, Any]) -> str | None:
    """The trunk of a configuration with this identity; what is measured is part of a trunk."""
    if config.normalizer not in ("bn", "fixbn") or fork_round(config) == 0:
        return None
    if config.freeze_rule == "auto":  # nobody knows where it forks
        return None
    own = ("normalizer", "freeze_round", "freeze")
    common = {key: value for key, value in identity.items() if key not in own}
    measured = {name: getattr(config, name) for name in MEASURED}
    return content_hash({**common, "measured": measured})


def fork_round(config: TrainConfig) -> int:
    """The last round that a trial may have in common with others of its trunk."""
    return config.rounds if config.freeze_round is None else config.freeze_round


class Lattice(BaseModel):
    """Which T* a search may try: rounds, or shares of T ("25%")."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int | str = 0
    high: int | str = "100%"
    step: int | str = "10%"


class SearchSpec(BaseModel):
    """How the best T* of each arm is searched for; the `[search]` section of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    freeze_round: Lattice = Lattice()
    probes_per_arm: Annotated[int, Field(ge=1, le=10_000)] = 12
    """The most T* to try."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    metric: Literal["validation_accuracy", "test_accuracy"] = "validation_accuracy"
    rounds_per_seed: int | str | None = "366%"
    """The most rounds to spend on an arm for each of its seeds, its trunk included: by default a
    third of a grid of eleven T*."""
    extra_seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    """The most seeds to add to an arm where two T* cannot be told apart."""
    confirm_seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    """New seeds on which the proposed T*, BN and GN are trained when the search is over: what it
    gains is then measured on seeds that did not choose it."""
    prune: Literal["none", "median", "wilcoxon"] = "none"
    """Whether to cancel calibration tails that cannot win: see `search.pruning`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the search's own draws."""


@dataclass(frozen=True)
class ArmSpec:
    """A cell without T*, and how its best T* is to be found."""

    arm_id: str
    config: TrainConfig
    """With T* = T, and the first of the seeds."""
    seeds: tuple[int, ...]
    rivals: tuple[TrainConfig, ...]
    """The cells of BN and GN that the sweep compares it with: they get its added seeds too."""
    search: SearchSpec
    low: int
    high: int
    step: int
    """T* that may be tried, rounds."""
    rounds_per_seed: int | None
    shared: bool = True
    """Whether its trials share their trunk."""

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        seeds: Sequence[int],
        search: SearchSpec,
        rivals: Sequence[TrainConfig] = (),
    ) -> ArmSpec:
        """The arm of a fixbn configuration.

        Raises:
            ValueError: the search's rounds do not fit the arm's.

        """
        whole = config.model_copy(update={"freeze_round": config.rounds, "seed": seeds[0]})
        lattice, rounds = search.freeze_round, config.rounds
        low, high, step = (
            _rounds_of(value, rounds, f"freeze_round.{name}")
            for name, value in (
                ("low", lattice.low),
                ("high", lattice.high),
                ("step", lattice.step),
            )
        )
        if not 0 <= low <= high <= rounds:
            raise ValueError(
                f"freeze_round from {low} to {high} does not lie in 0 to rounds = {rounds}"
            )
        if not _positive(lattice.step):
            raise ValueError(f"freeze_round.step = {json.dumps(lattice.step)} is not above 0")
        if (high - low) // max(step, 1) >= MOST_POINTS:
            raise ValueError(
                f"freeze_round from {low} to {high} in steps of {max(step, 1)} has more than "
                f"{MOST_POINTS:,} rounds to choose from: raise freeze_round.step"
            )
        if max(seeds) > LARGEST - search.extra_seeds - search.confirm_seeds:
            raise ValueError(
                f"seed = {max(seeds)} leaves no room for extra_seeds and confirm_seeds, which "
                "count up from it: choose a lower seed"
            )
        most = search.rounds_per_seed
        limit = None if most is None else _rounds_of(most, rounds, "rounds_per_seed")
        if limit is not None and limit < rounds:
            raise ValueError(
                f"rounds_per_seed = {limit} is less than one trial's rounds = {rounds}"
            )
        if search.metric == "validation_accuracy" and not config.validation:
            raise ValueError(
                "the search needs samples held back to choose by: set validation = 0.1 in "
                '[protocol], or metric = "test_accuracy", which the report will say'
            )
        return cls(
            arm_id=content_hash(_arm_identity(config)),
            config=whole,
            seeds=tuple(seeds),
            rivals=tuple(rivals),
            search=search,
            low=low,
            high=high,
            step=max(step, 1),
            rounds_per_seed=limit,
        )

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the plan, and those that the search may add, which count up from them."""
        last, added = max(self.seeds), self.search.extra_seeds + self.search.confirm_seeds
        return [*self.seeds, *range(last + 1, last + 1 + added)]

    @property
    def points(self) -> range:
        """Every T* that may be tried, ascending."""
        return range(self.low, self.high + 1, self.step)

    def trial(self, freeze_round: int, seed: int) -> TrialSpec:
        """One of its trials."""
        update = {"freeze_round": freeze_round, "seed": seed}
        trial = TrialSpec.of(self.config.model_copy(update=update))
        return trial if self.shared else replace(trial, trunk=None)

    def rival_trials(self, seed: int) -> list[TrialSpec]:
        """BN's and GN's trials of a seed."""
        trials = [TrialSpec.of(c.model_copy(update={"seed": seed})) for c in self.rivals]
        return trials if self.shared else [replace(trial, trunk=None) for trial in trials]


def _arm_identity(config: TrainConfig) -> dict[str, Any]:
    """Of a fixbn configuration."""
    own = ("seed", "freeze_round")
    return {key: value for key, value in canonical(config).items() if key not in own}


def _comparison(config: TrainConfig) -> str:
    """Equal for configurations that differ only in their normalizer, its settings and the seed."""
    own = ("seed", "normalizer", *ARM_FIELDS)
    return content_hash({k: v for k, v in canonical(config).items() if k not in own})


MOST_POINTS = 2000
"""Rounds T* that a search may choose from. Its surrogate takes memory by the square of them."""


def _positive(step: int | str) -> bool:
    """Return whether a step is above 0, in rounds or as a fraction of them."""
    return Decimal(step.strip().removesuffix("%") if isinstance(step, str) else step) > 0


def _rounds_of(value: int | str, rounds: int, name: str) -> int:
    """Rounds, given as such or as a share of T.

    Raises:
        ValueError: it is neither, or more than a database holds.

    """
    counted = value if isinstance(value, int) else _percentage_of(value, rounds, name)
    if counted > LARGEST:
        raise ValueError(f"{name} = {counted:,} is more than {LARGEST:,}: lower it")
    return counted


def _percentage_of(value: str, rounds: int, name: str) -> int:
    try:
        percent = Decimal(value.strip().removesuffix("%"))
    except InvalidOperation:
        percent = Decimal("NaN")
    if not value.strip().endswith("%") or not percent.is_finite() or not 0 <= percent <= 10**6:
        raise ValueError(f'{name} = {json.dumps(value)} is neither rounds (8) nor a share ("10%")')
    return int(percent / 100 * rounds + Decimal("0.5"))


class Trials(Sequence[TrialSpec]):
    """The trials of a plan, each once, in about 200 bytes each.

    The values of a configuration are kept in groups that trials share. The configuration is made
    again when a trial is read.
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
        """Return these trials as they are, if they are `Trials`, otherwise packed."""
        return trials if isinstance(trials, cls) else cls(trials)

    def add(self, trial: TrialSpec) -> None:
        """Add a trial. If it is there, it measures and keeps all that both spellings ask for."""
        place = self._places.get(trial.trial_id)
        if place is None:
            self._places[trial.trial_id] = len(self._rows)
            self._rows.append(self._packed(trial))
        elif (before := self[place].config) != trial.config:
            more = more_measured(before, trial.config)
            self._rows[place] = self._packed(TrialSpec.of(more))

    def without(self, ids: Container[str]) -> Trials:
        """Return the trials that have none of these ids."""
        some = Trials(shared=self.shared)
        some._rows = [row for row in self._rows if row[0] not in ids]
        some._places = {row[0]: place for place, row in enumerate(some._rows)}
        some._pool, some._like = self._pool, self._like
        return some

    def alone(self) -> Trials:
        """Return the same trials, without trunks."""
        some = copy(self)
        some.shared = False
        return some

    @property
    def ids(self) -> list[str]:
        """The ids of the trials, in order."""
        return list(self._places)

    @property
    def configs(self) -> Iterator[TrainConfig]:
        """The configurations of the trials, in order."""
        return map(self._config, self._rows)

    def distinct(self, *fields: str) -> Iterator[TrainConfig]:
        """The first configuration of each combination of values of these fields, in order."""
        read = _reading(*fields)
        seen: set[Any] = set()
        for row in self._rows:
            if (key := read(row)) not in seen:
                seen.add(key)
                yield self._config(row)

    @property
    def rounds(self) -> int:
        """The rounds of all trials, if they shared nothing."""
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
"""Fields of one group. In a grid few axes fall into one group, so few groups differ."""


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


@dataclass(frozen=True)
class Budget:
    """What a sweep may train in all; None is no limit."""

    rounds: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class SweepSpec:
    """A named plan: its text, and its trials in the order of the file, each once."""

    name: str
    text: str
    trials: Sequence[TrialSpec]
    budget: Budget | None = None
    arms: tuple[ArmSpec, ...] = ()
    """What it searches the best T* of."""

    def __post_init__(self) -> None:
        """Pack the trials."""
        object.__setattr__(self, "trials", Trials.of(self.trials))

    def alone(self) -> SweepSpec:
        """The same sweep, of trials that share nothing."""
        return replace(
            self,
            trials=Trials.of(self.trials).alone(),
            arms=tuple(replace(arm, shared=False) for arm in self.arms),
        )


@dataclass(frozen=True)
class Claim:
    """One attempt's hold on a trial. Every write it makes carries the fence."""

    trial: int
    """The row's key."""
    trial_id: str
    fence: int
    config: Mapping[str, Any]
    numerics_id: str | None
    """What the stored rounds were computed under; None where there are none."""
    data_fingerprint: str | None
    final_round: int
    """The last stored round, 0 where there is none."""
    trunk: str | None = None
    """What it shares with siblings; None where nothing."""
    fork_round: int = 0
    """The last round that it may share."""
    store: str = ""
    """The database's own name, a part of the names of the attempt's files."""


@dataclass(frozen=True)
class Holdings:
    """Who holds what under a configuration."""

    config: TrainConfig
    counts: tuple[tuple[int, ...], ...]
    """By client and class, with what is held back for validation."""
    unit: str
    """What is counted: samples, or pixels where each has a class."""


def content_hash(identity: Mapping[str, Any]) -> str:
    """Hex digits of SHA-256 over the identity as sorted, compact JSON."""
    return hashlib.sha256(_COMPACT.encode(identity).encode()).hexdigest()[:ID_DIGITS]


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@functools.cache
def _required() -> tuple[str, ...]:
    return tuple(key for key, info in TrainConfig.model_fields.items() if info.is_required())


@functools.cache
def config_columns() -> dict[str, type]:
    """Every field of TrainConfig with the type of its values: bool, int, float or str."""
    python = {"boolean": bool, "integer": int, "number": float, "string": str}
    columns = {}
    for name, schema in TrainConfig.model_json_schema()["properties"].items():
        variants = [schema, *schema.get("anyOf", [])]
        columns[name] = next(python[v["type"]] for v in variants if v.get("type") in python)
    return columns


def own_rounds(trials: Sequence[TrialSpec]) -> list[int]:
    """The rounds that each of these trials trains, where they share what they can: of a trunk, the
    one that goes furthest trains all of it.
    """
    furthest: dict[str, tuple[int, int]] = {}
    own = []
    for n, trial in enumerate(trials):
        fork = 0
        if trial.trunk is not None:
            fork = fork_round(trial.config)
            if fork > furthest.get(trial.trunk, (-1, 0))[0]:
                furthest[trial.trunk] = (fork, n)
        own.append(trial.config.rounds - fork)
    for fork, n in furthest.values():
        own[n] += fork
    return own


def most_forks(trials: Sequence[TrialSpec]) -> int:
    """How many snapshots a trunk of these trials needs at most: one at each round at which one of
    them forks.
    """
    forks: dict[str, set[int]] = {}
    for trial in trials:
        if trial.trunk is not None and fork_round(trial.config) < trial.config.rounds:
            forks.setdefault(trial.trunk, set()).add(fork_round(trial.config))
    return max(map(len, forks.values()), default=0)


Permit = Callable[[int], None]
"""Called with the most points that a plan may make, before the first is made. It may raise."""


def read_plan(
    path: Path, overrides: Sequence[str] = (), permit: Permit = lambda _points: None
) -> SweepSpec:
    """Read, override (`key=value`, a TOML value or a bare word) and check a plan file.

    `permit` is called with the number of points, before duplicates are merged.

    Raises:
        PlanError: one sentence with the file, the key and, where there is one, the right spelling.

    """
    try:
        text = decode(path.read_bytes())
        document = tomllib.loads(text)
    except (OSError, NotUtf8) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlanError(f"{path} cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a value is too large"
        raise PlanError(f"{path} is not valid TOML: {said}") from error
    fixed = dict(_override(text) for text in overrides)
    if overrides:
        text += "".join(f"\n# --set {text}" for text in overrides) + "\n"
    return _Reader(str(path), fixed, permit).sweep(document, text)


def pinned(sweep: SweepSpec, dataset: str, fingerprint: str) -> SweepSpec:
    """The sweep with the content of a data set on disk made part of its trials' identity."""

    def pin(trial: TrialSpec) -> TrialSpec:
        if trial.config.dataset != dataset or trial.config.fingerprint:
            return trial
        return TrialSpec.of(trial.config.model_copy(update={"fingerprint": fingerprint}))

    def pinned_config(config: TrainConfig) -> TrainConfig:
        return pin(TrialSpec.of(config)).config

    arms = tuple(
        replace(
            ArmSpec.of(
                pinned_config(arm.config),
                arm.seeds,
                arm.search,
                list(map(pinned_config, arm.rivals)),
            ),
            shared=arm.shared,
        )
        for arm in sweep.arms
    )
    return replace(sweep, trials=Trials(pin(trial) for trial in sweep.trials), arms=arms)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.removeprefix(BYTE_ORDER_MARK).partition("=")
    if not equals or not key.strip():
        raise PlanError(f"--set {text!r} is not key=value, for example --set rounds=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def more_measured(one: TrainConfig, other: TrainConfig) -> TrainConfig:
    """A trial with all that either of two spellings of it measures and keeps."""
    flags = [name for name in OUTSIDE_IDENTITY if config_columns()[name] is bool]
    more = {name: getattr(one, name) or getattr(other, name) for name in flags}
    for name in ("evaluate_every", "snapshot_every"):
        asked = [c for c in (getattr(one, name), getattr(other, name)) if c is not None]
        more[name] = min(asked, default=None)
    return one.model_copy(update=more)


_NAME = r"(?!-|\.\.?$)[\w.+-][\w .+-]{0,99}"
"""Of a sweep: an option and a way through folders are none."""


MOST_ROUNDS = 10**15
"""Rounds of one plan. A database sums the rounds of thousands of plans in an integer of 63 bits."""


class _Open:
    """The arms of a plan that is being read, each with the seeds that it names."""

    def __init__(self) -> None:
        self.arms: dict[str, tuple[TrainConfig, set[int]]] = {}

    def add(self, config: TrainConfig) -> None:
        """Add a configuration whose T* is searched for."""
        key = content_hash(_arm_identity(config))
        before, seeds = self.arms.get(key, (config, set()))
        seeds.add(config.seed)
        self.arms[key] = (more_measured(before, config), seeds)


class _Reader:
    """One plan file being read; it knows the file's name for its messages."""

    def __init__(self, file: str, fixed: Mapping[str, Any], permit: Permit) -> None:
        self.file = file
        self.fixed = fixed
        self.permit = permit
        self.last: tuple[dict[str, Any], TrainConfig] | None = None
        """The last point without its seed, and its configuration."""

    def sweep(self, document: Mapping[str, Any], text: str) -> SweepSpec:
        self.known(document, ["name", "protocol", "grid", "search", "budget"], "")
        search = self.search(document["search"]) if "search" in document else None
        name = document.get("name")
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            self.refuse(
                'name must be 1 to 100 letters, digits, spaces, ".", "+", "-" or "_", the first '
                'no "-", and not "." or ".." alone: for example name = "cifar10-normalizers"'
            )
        protocol = document.get("protocol", {})
        grids = document.get("grid", [{}])
        if not isinstance(protocol, dict):
            self.refuse("protocol must be a table: write [protocol]")
        if not isinstance(grids, list) or not all(isinstance(g, dict) for g in grids) or not grids:
            self.refuse("grid must be an array of tables: write [[grid]]")
        self.known(self.fixed, TrainConfig.model_fields, "--set ")
        for key, value in self.fixed.items():
            self.value(key, value, "--set ")
        budget = self.budget(document["budget"]) if "budget" in document else None
        axes = self.axes(protocol, grids)
        self.permit(sum(math.prod(map(len, grid.values())) for grid in axes))
        trials, open_ = Trials(), _Open()
        for config, searched in self.points(protocol, axes, searched=search is not None):
            if searched:
                open_.add(config)
            else:
                trials.add(TrialSpec.of(config))
        arms = self.arms(search, open_, trials)
        rounds = trials.rounds + sum(arm.config.rounds for arm in arms)
        if rounds > MOST_ROUNDS:
            self.refuse(
                f"the trials have {rounds:,} rounds in all, more than {MOST_ROUNDS:,}: lower rounds"
            )
        return SweepSpec(name, text, trials, budget, arms)

    def search(self, table: Any) -> SearchSpec:
        """How T* is to be searched for."""
        if not isinstance(table, dict):
            self.refuse("search must be a table: write [search]")
        self.known(table, SearchSpec.model_fields, "[search] ")
        lattice = table.get("freeze_round", {})
        if not isinstance(lattice, dict):
            self.refuse(
                "[search] freeze_round must be a table: freeze_round = { low = 0, high = 128, "
                "step = 4 }"
            )
        self.known(lattice, Lattice.model_fields, "[search] freeze_round.")
        try:
            return SearchSpec(**{**table, "freeze_round": Lattice(**lattice)})
        except ValidationError as error:
            first = error.errors()[0]
            names = [str(name) for name in first["loc"] if name not in ("int", "str")]
            key = ".".join(["freeze_round"] * (error.title == "Lattice") + names)
            reason = first["msg"][0].lower() + first["msg"][1:]
            self.refuse(
                f"[search] {key} = {json.dumps(first['input'], default=str)} cannot be used: "
                f"{reason}"
            )

    def arms(
        self,
        search: SearchSpec | None,
        open_: _Open,
        trials: Trials,
    ) -> tuple[ArmSpec, ...]:
        """What is searched, with the seeds of the plan; BN and GN of the same plan are rivals."""
        if search is None:
            return ()
        if not open_.arms:
            self.refuse(
                "[search] has nothing to search: leave freeze_round out of a fixbn [[grid]] block"
            )
        rivals: dict[str, dict[str, TrainConfig]] = {}
        for trial in trials:
            if trial.config.normalizer in ("bn", "gn"):
                of_it = rivals.setdefault(_comparison(trial.config), {})
                of_it.setdefault(trial.cell_id, trial.config)
        try:
            return tuple(
                ArmSpec.of(
                    config,
                    sorted(seeds),
                    search,
                    list(rivals.get(_comparison(config), {}).values()),
                )
                for config, seeds in open_.arms.values()
            )
        except ValueError as error:
            self.refuse(f"[search] {error}{self.override_in(str(error))}")

    def budget(self, table: Any) -> Budget:
        """The rounds and hours that the sweep may train in all."""
        if not isinstance(table, dict) or not table:
            self.refuse("budget must be a table: write [budget] with rounds or hours")
        self.known(table, ["rounds", "hours"], "[budget] ")
        for key, value in table.items():
            whole = key == "hours" or (isinstance(value, int) and value >= 1)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not whole or not 0 < value < float("inf"):
                self.refuse(f"[budget] {key} = {json.dumps(value, default=str)} is no limit")
            if value > LARGEST:
                self.refuse(f"[budget] {key} = {value:,} is more than {LARGEST:,}: lower it")
        return Budget(table.get("rounds"), table.get("hours"))

    def axes(
        self, protocol: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, list[Any]]]:
        """Return the values of each axis of each block, checked."""
        self.known(protocol, TrainConfig.model_fields, "[protocol] ")
        protocol = {k: v for k, v in protocol.items() if k not in self.fixed}
        for key, value in protocol.items():
            if isinstance(value, list):
                self.refuse(f"[protocol] {key} is a list: move it to a [[grid]] block")
            self.value(key, value, "[protocol] ")
        return [self.block(grid) for grid in grids]

    def block(self, grid: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the values of each axis of a block, without the keys that --set fixes."""
        self.known(grid, TrainConfig.model_fields, "[[grid]] ")
        axes = {k: v if isinstance(v, list) else [v] for k, v in grid.items()}
        axes = {k: v for k, v in axes.items() if k not in self.fixed}
        for key, values in axes.items():
            if not values:
                self.refuse(f"[[grid]] {key} is an empty list: give it a value")
            for value in values:
                self.value(key, value, "[[grid]] ")
        return axes

    def points(
        self,
        protocol: Mapping[str, Any],
        grids: Sequence[Mapping[str, Sequence[Any]]],
        *,
        searched: bool,
    ) -> Iterator[tuple[TrainConfig, bool]]:
        """Each configuration of the grid, and whether its T* is to be searched for."""
        for axes in grids:
            for point in itertools.product(*axes.values()):
                chosen = {**protocol, **dict(zip(axes, point, strict=True)), **self.fixed}
                open_ = searched and chosen.get("normalizer") == "fixbn"
                open_ = open_ and "freeze_round" not in chosen
                yield self.config({**chosen, "freeze_round": "100%"} if open_ else chosen), open_

    def config(self, chosen: dict[str, Any]) -> TrainConfig:
        """Return a checked configuration. If only the seed is new, the last one was checked."""
        others = {key: value for key, value in chosen.items() if key != "seed"}
        if self.last is None or self.last[0] != others:
            self.last = others, self.checked(chosen)
        return self.last[1].model_copy(update={"seed": int(chosen.get("seed", 0))})

    def checked(self, chosen: dict[str, Any]) -> TrainConfig:
        if missing := [key for key in _required() if key not in chosen]:
            self.refuse(f"{missing[0]} is missing: set it in [protocol] or a [[grid]] block")
        if "freeze_round" in chosen:
            chosen = {
                **chosen,
                "freeze_round": self.freeze_round(chosen["freeze_round"], chosen["rounds"]),
            }
        try:
            config = TrainConfig(**chosen)
            check_feasible(config)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            message = where + first["msg"].removeprefix("Value error, ")
            self.refuse(message + self.override_in(message))
        except ValueError as error:
            self.refuse(f"{error}{self.override_in(str(error))}")
        return config

    def override_in(self, message: str) -> str:
        """Name each `--set` whose key the message names, because the plan file has another value.

        An empty text if there is none.
        """
        named = [
            f"--set {key}={json.dumps(value, default=str)}"
            for key, value in self.fixed.items()
            if re.search(rf"\b{key}\b", message)
        ]
        return f" ({', '.join(named)})" if named else ""

    def freeze_round(self, value: Any, rounds: int) -> Any:
        """T*, given as rounds or as a share of them: "25%" is floor(0.25 T + 1/2)."""
        if isinstance(value, str) and value.strip() != AUTO:
            return share(Decimal(value.strip().removesuffix("%")) / 100, int(rounds))
        return AUTO if isinstance(value, str) else value

    def known(self, table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
        names = list(keys)
        for key in table:
            if key not in names:
                self.refuse(f"{where}{key} is not a key that fedsweep knows{_nearest(key, names)}")

    def value(self, key: str, value: Any, where: str) -> None:
        """Check one value against its field alone, so that it is refused even where unused."""
        if key == "freeze_round" and isinstance(value, (str, float)):
            self.percentage(value, where)
            return
        try:
            _adapter(key).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            says = f"{where}{key} = {json.dumps(value, default=str)}"
            if first["type"] == "literal_error":
                choices = _choices(key)
                near = _near(str(value), choices)
                self.refuse(f"{says} is none of {', '.join(choices)}" + (near and f": {near}"))
            reason = first["msg"][0].lower() + first["msg"][1:]
            self.refuse(f"{says} cannot be used: {reason}")

    def percentage(self, value: str | float, where: str) -> None:
        says = f"{where}freeze_round = {json.dumps(value)}"
        remedy = 'write a round (64), a share of the rounds ("50%"), or "auto"'
        if isinstance(value, str) and value.strip() == AUTO:
            return
        if isinstance(value, float):
            if not value.is_integer() or value < 0:
                self.refuse(f"{says} is not a round: {remedy}")
            return
        try:
            percent = Decimal(value.strip().removesuffix("%"))
        except InvalidOperation:
            self.refuse(f"{says} is not a share: {remedy}")
        sound = percent.is_finite() and value.strip().endswith("%")
        if not sound or not 0 <= percent <= 100:
            self.refuse(f"{says} does not lie between 0% and 100%: {remedy}")

    def refuse(self, message: str) -> NoReturn:
        raise PlanError(f"{self.file}: {message}")


@functools.cache
def _adapter(key: str) -> TypeAdapter[Any]:
    """What validates one field of TrainConfig on its own."""
    info = TrainConfig.model_fields[key]
    kind: Any = info.annotation
    for check in info.metadata:
        kind = Annotated[kind, check]
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _choices(key: str) -> list[str]:
    schema = TrainConfig.model_json_schema()["properties"][key]
    return [str(c) for v in [schema, *schema.get("anyOf", [])] for c in v.get("enum", [])]


def _nearest(word: str, words: Sequence[str]) -> str:
    return f": {_near(word, words) or 'choose from ' + ', '.join(words)}"


def _near(word: str, words: Sequence[str]) -> str:
    longer = [known for known in words if word and known.startswith(word)]
    close = longer or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""
