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
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedsweep.errors import PlanError
from trainers.config import OUTSIDE_IDENTITY, TrainConfig, canonical, check_sizes, share

__all__ = [
    "OUTSIDE_IDENTITY",
    "Budget",
    "Claim",
    "ClientScore",
    "Holdings",
    "Round",
    "SweepSpec",
    "TrainConfig",
    "TrialSpec",
    "check_sizes",
    "read_plan",
]

ID_DIGITS = 20

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


def trunk_of(config: TrainConfig, identity: Mapping[str, Any]) -> str | None:
    """The trunk of a configuration with this identity; what is measured is part of a trunk."""
    if config.normalizer not in ("bn", "fixbn") or fork_round(config) == 0:
        return None
    own = ("normalizer", "freeze_round", "freeze")
    common = {key: value for key, value in identity.items() if key not in own}
    measured = {name: getattr(config, name) for name in MEASURED}
    return content_hash({**common, "measured": measured})


def fork_round(config: TrainConfig) -> int:
    """The last round that a trial may have in common with others of its trunk."""
    return config.rounds if config.freeze_round is None else config.freeze_round


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

    def alone(self) -> SweepSpec:
        """The same sweep, of trials that share nothing."""
        return replace(self, trials=tuple(replace(trial, trunk=None) for trial in self.trials))


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
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
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

    return replace(sweep, trials=_each_once(pin(trial) for trial in sweep.trials))


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
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


class _Reader:
    """One plan file being read; it knows the file's name for its messages."""

    def __init__(self, file: str, fixed: Mapping[str, Any]) -> None:
        self.file = file
        self.fixed = fixed

    def sweep(self, document: Mapping[str, Any], text: str) -> SweepSpec:
        self.known(document, ["name", "protocol", "grid", "search", "budget"], "")
        if "search" in document:
            self.refuse("[search] is not supported yet: list the freeze rounds in a [[grid]] block")
        name = document.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-][\w .+-]{0,99}", name):
            self.refuse(
                'name must be 1 to 100 letters, digits, spaces, ".", "+", "-" or "_", '
                'for example name = "cifar10-normalizers"'
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
        return SweepSpec(name, text, _each_once(self.trials(protocol, grids)), budget)

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

    def trials(
        self, protocol: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]
    ) -> Iterator[TrialSpec]:
        self.known(protocol, TrainConfig.model_fields, "[protocol] ")
        for key, value in protocol.items():
            if isinstance(value, list):
                self.refuse(f"[protocol] {key} is a list: move it to a [[grid]] block")
            self.value(key, value, "[protocol] ")
        for grid in grids:
            self.known(grid, TrainConfig.model_fields, "[[grid]] ")
            axes = {k: v if isinstance(v, list) else [v] for k, v in grid.items()}
            axes = {k: v for k, v in axes.items() if k not in self.fixed}
            for key, values in axes.items():
                if not values:
                    self.refuse(f"[[grid]] {key} is an empty list: give it a value")
                for value in values:
                    self.value(key, value, "[[grid]] ")
            for point in itertools.product(*axes.values()):
                yield self.trial({**protocol, **dict(zip(axes, point, strict=True)), **self.fixed})

    def trial(self, chosen: dict[str, Any]) -> TrialSpec:
        if missing := [key for key in _required() if key not in chosen]:
            self.refuse(f"{missing[0]} is missing: set it in [protocol] or a [[grid]] block")
        if "freeze_round" in chosen:
            chosen["freeze_round"] = self.freeze_round(chosen["freeze_round"], chosen["rounds"])
        try:
            return TrialSpec.of(TrainConfig(**chosen))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            self.refuse(where + first["msg"].removeprefix("Value error, "))

    def freeze_round(self, value: Any, rounds: int) -> Any:
        """T*, given as rounds or as a share of them: "25%" is floor(0.25 T + 1/2)."""
        if isinstance(value, str):
            return share(Decimal(value.strip().removesuffix("%")) / 100, int(rounds))
        return value

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
                self.refuse(
                    f"{says} is none of {', '.join(choices)}{_nearest(str(value), choices)}"
                )
            reason = first["msg"][0].lower() + first["msg"][1:]
            self.refuse(f"{says} cannot be used: {reason}")

    def percentage(self, value: str | float, where: str) -> None:
        says = f"{where}freeze_round = {json.dumps(value)}"
        remedy = 'write a round (64) or a share of the rounds ("50%")'
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
    longer = [known for known in words if word and known.startswith(word)]
    close = longer or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else f": choose from {', '.join(words)}"
