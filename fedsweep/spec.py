"""What is asked for and what is measured, as frozen values; and the plan file they come from."""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedsweep.errors import PlanError
from trainers.config import (
    LARGEST,
    OUTSIDE_IDENTITY,
    RECIPE,
    TINY_ALPHA,
    TrainConfig,
    canonical,
    recipe,
    share,
)
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
    "check_recipe",
    "read_plan",
]

ID_DIGITS = 20

AUTO = "auto"
"""A freeze round that the trial finds itself: see `trainers.freeze`."""

MEASURED = ("evaluate_every", "client_accuracy", "diagnostics")
"""What is outside a trial's identity and shows in its rounds."""


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
    """Equal for configurations that differ by their normaliser, and by their seed, alone."""
    own = ("seed", "normalizer", "freeze_round", "freeze", "gn_groups", "agc_clip")
    return content_hash({k: v for k, v in canonical(config).items() if k not in own})


MOST_POINTS = 2000
"""Rounds T* that a search may choose from. Its surrogate takes memory by the square of them."""


def _positive(step: int | str) -> bool:
    """Return whether a step is above 0, in rounds or as a fraction of them."""
    return Decimal(step.strip().removesuffix("%") if isinstance(step, str) else step) > 0


def _rounds_of(value: int | str, rounds: int, name: str) -> int:
    """Rounds, given as such or as a share of T, of any size."""
    if isinstance(value, int):
        return value
    try:
        percent = Decimal(value.strip().removesuffix("%"))
    except InvalidOperation:
        percent = Decimal("NaN")
    if not value.strip().endswith("%") or not percent.is_finite() or not 0 <= percent <= 10**6:
        raise ValueError(f'{name} = {json.dumps(value)} is neither rounds (8) nor a share ("10%")')
    return int(percent / 100 * rounds + Decimal("0.5"))


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
    trials: tuple[TrialSpec, ...]
    budget: Budget | None = None
    arms: tuple[ArmSpec, ...] = ()
    """What it searches the best T* of."""

    def alone(self) -> SweepSpec:
        """The same sweep, of trials that share nothing."""
        return replace(
            self,
            trials=tuple(replace(trial, trunk=None) for trial in self.trials),
            arms=tuple(replace(arm, shared=False) for arm in self.arms),
        )

    @property
    def configs(self) -> list[TrainConfig]:
        """Of its trials and arms."""
        return [trial.config for trial in self.trials] + [arm.config for arm in self.arms]


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


@dataclass(frozen=True)
class ClientScore:
    """One registered client's own test accuracy (0..1) after a round."""

    client: int
    samples: int
    test_accuracy: float


@dataclass(frozen=True)
class Round:
    """One row of measurements; see `trainers.fedavg.Round` for the units."""

    round: int
    phase: str
    train_loss: float
    test_loss: float | None
    test_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    test_miou: float | None = None
    mean_client_accuracy: float | None = None
    worst_client_accuracy: float | None = None
    statistics_mismatch: float | None = None
    gradient_deviation: float | None = None
    client_drift: float | None = None
    statistics_mismatch_layers: Mapping[str, float] | None = None
    clients: tuple[ClientScore, ...] = ()


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
    furthest: dict[str, int] = {}
    for n, trial in enumerate(trials):
        if trial.trunk is not None:
            before = furthest.setdefault(trial.trunk, n)
            if fork_round(trial.config) > fork_round(trials[before].config):
                furthest[trial.trunk] = n
    return [
        t.config.rounds
        if t.trunk is None or furthest[t.trunk] == n
        else t.config.rounds - fork_round(t.config)
        for n, t in enumerate(trials)
    ]


def most_forks(trials: Sequence[TrialSpec]) -> int:
    """How many snapshots a trunk of these trials needs at most: one at each round at which one of
    them forks.
    """
    forks: dict[str, set[int]] = {}
    for trial in trials:
        if trial.trunk is not None and fork_round(trial.config) < trial.config.rounds:
            forks.setdefault(trial.trunk, set()).add(fork_round(trial.config))
    return max(map(len, forks.values()), default=0)


def read_plan(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read, override (`key=value`, a TOML value or a bare word) and check a plan file.

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
    return _Reader(str(path), fixed).sweep(document, text)


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
    return replace(sweep, trials=_each_once(pin(trial) for trial in sweep.trials), arms=arms)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.removeprefix(BYTE_ORDER_MARK).partition("=")
    if not equals or not key.strip():
        raise PlanError(f"--set {text!r} is not key=value, for example --set rounds=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def _each_once(trials: Iterable[TrialSpec]) -> tuple[TrialSpec, ...]:
    """Each trial once. Asked for in two ways, it measures and keeps all that was asked."""
    found: dict[str, TrialSpec] = {}
    for trial in trials:
        before = found.get(trial.trial_id)
        if before is not None and before.config != trial.config:
            more = more_measured(before.config, trial.config)
            found[trial.trial_id] = TrialSpec.of(more)
        else:
            found[trial.trial_id] = trial
    return tuple(found.values())


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


class _Reader:
    """One plan file being read; it knows the file's name for its messages."""

    def __init__(self, file: str, fixed: Mapping[str, Any]) -> None:
        self.file = file
        self.fixed = fixed

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
        points = list(self.points(protocol, grids, searched=search is not None))
        trials = _each_once(TrialSpec.of(config) for config, searched in points if not searched)
        arms = self.arms(search, [config for config, searched in points if searched], trials)
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
        configs: Sequence[TrainConfig],
        trials: Sequence[TrialSpec],
    ) -> tuple[ArmSpec, ...]:
        """What is searched, with the seeds of the plan; BN and GN of the same plan are rivals."""
        if search is None:
            return ()
        if not configs:
            self.refuse(
                "[search] has nothing to search: leave freeze_round out of a fixbn [[grid]] block"
            )
        rivals: dict[str, dict[str, TrainConfig]] = {}
        for trial in trials:
            if trial.config.normalizer in ("bn", "gn"):
                of_it = rivals.setdefault(_comparison(trial.config), {})
                of_it.setdefault(trial.cell_id, trial.config)
        grouped: dict[str, list[TrainConfig]] = {}
        for config in configs:
            grouped.setdefault(content_hash(_arm_identity(config)), []).append(config)
        try:
            return tuple(
                ArmSpec.of(
                    functools.reduce(more_measured, some),
                    sorted({config.seed for config in some}),
                    search,
                    list(rivals.get(_comparison(some[0]), {}).values()),
                )
                for some in grouped.values()
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
        return Budget(table.get("rounds"), table.get("hours"))

    def points(
        self, protocol: Mapping[str, Any], grids: Sequence[Mapping[str, Any]], *, searched: bool
    ) -> Iterator[tuple[TrainConfig, bool]]:
        """Each configuration of the grid, and whether its T* is to be searched for."""
        self.known(protocol, TrainConfig.model_fields, "[protocol] ")
        protocol = {k: v for k, v in protocol.items() if k not in self.fixed}
        for key, value in protocol.items():
            if isinstance(value, list):
                self.refuse(f"[protocol] {key} is a list: move it to a [[grid]] block")
            self.value(key, value, "[protocol] ")
        for grid in grids:
            self.known(grid, TrainConfig.model_fields, "[[grid]] ")
            kept = {k: v for k, v in grid.items() if k not in self.fixed}
            axes = {k: v if isinstance(v, list) else [v] for k, v in kept.items()}
            for key, values in axes.items():
                if not values:
                    self.refuse(f"[[grid]] {key} is an empty list: give it a value")
                for value in values:
                    self.value(key, value, "[[grid]] ")
            for point in itertools.product(*axes.values()):
                chosen = {**protocol, **dict(zip(axes, point, strict=True)), **self.fixed}
                open_ = searched and chosen.get("normalizer") == "fixbn"
                open_ = open_ and "freeze_round" not in chosen
                yield self.config({**chosen, "freeze_round": "100%"} if open_ else chosen), open_

    def config(self, chosen: dict[str, Any]) -> TrainConfig:
        if missing := [key for key in _required() if key not in chosen]:
            self.refuse(f"{missing[0]} is missing: set it in [protocol] or a [[grid]] block")
        if "freeze_round" in chosen:
            chosen = {
                **chosen,
                "freeze_round": self.freeze_round(chosen["freeze_round"], chosen["rounds"]),
            }
        try:
            return TrainConfig(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            message = where + first["msg"].removeprefix("Value error, ")
            self.refuse(message + self.override_in(message))

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
