"""The plan file: TOML that is read, overridden and checked."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedsweep.errors import PlanError
from fedsweep.plans.arms import ArmSpec, Lattice, SearchSpec, arm_identity, comparison_of
from fedsweep.plans.identity import content_hash
from fedsweep.plans.packed import Trials
from fedsweep.plans.sweep import Budget, SweepSpec
from fedsweep.plans.trials import TrialSpec, more_measured
from trainers.config import LARGEST, REGISTRIES, TrainConfig
from trainers.feasible import check_feasible
from trainers.sizes import share
from trainers.text import BYTE_ORDER_MARK, NotUtf8, decode

AUTO = "auto"
"""The value of freeze_round for a trial that finds its freeze round itself (see
`trainers.freeze`).
"""


@functools.cache
def _required() -> tuple[str, ...]:
    return tuple(key for key, info in TrainConfig.model_fields.items() if info.is_required())


Permit = Callable[[int], None]
"""A function that is called with the maximum number of points of a plan before the first is made.
It may raise.
"""


def read_plan(
    path: Path, overrides: Sequence[str] = (), permit: Permit = lambda _points: None
) -> SweepSpec:
    """Read a plan file, apply the overrides (`key=value`, a TOML value or a bare word), and check
    it.

    `permit` is called with the number of points before duplicates are merged.

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
        syntax = isinstance(error, tomllib.TOMLDecodeError)
        reason = str(error) if syntax else "a value is too large"
        raise PlanError(f"{path} is not valid TOML: {reason}") from error
    return _sweep(str(path), document, text, overrides, permit)


def read_document(
    document: Mapping[str, Any],
    overrides: Sequence[str] = (),
    permit: Permit = lambda _points: None,
) -> SweepSpec:
    """Read a plan that is a dictionary, with the tables and keys of a plan file.

    Raises:
        PlanError: one sentence with the key and, where there is one, the right spelling.

    """
    from fedsweep.plans.toml_text import NoToml, toml_text

    try:
        text = toml_text(document)
    except NoToml as error:
        raise PlanError(f"{IN_PYTHON}: {error}") from error
    return _sweep(IN_PYTHON, tomllib.loads(text), text, overrides, permit)


IN_PYTHON = "the plan"
"""The name of a plan that is no file, in messages."""


def _sweep(
    file: str, document: Mapping[str, Any], text: str, overrides: Sequence[str], permit: Permit
) -> SweepSpec:
    fixed = dict(_override(text) for text in overrides)
    if overrides:
        text += "".join(f"\n# --set {text}" for text in overrides) + "\n"
    return _Reader(file, fixed, permit).sweep(document, text)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.removeprefix(BYTE_ORDER_MARK).partition("=")
    if not equals or not key.strip():
        raise PlanError(f"--set {text!r} is not key=value, for example --set rounds=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


PARTS = ("name", "protocol", "grid", "search", "budget")
"""The keys of a plan file at its top."""

_NAME = r"(?!-|\.\.?$)[\w.+-][\w .+-]{0,99}"
"""Pattern of a sweep's name. It excludes options and paths through folders."""


MOST_ROUNDS = 10**15
"""Maximum number of rounds in one plan. A database sums the rounds of thousands of plans in a
63-bit integer.
"""


class _Open:
    """The arms of a plan that is being read, each with its seeds."""

    def __init__(self) -> None:
        self.arms: dict[str, tuple[TrainConfig, set[int]]] = {}

    def add(self, config: TrainConfig) -> None:
        """Add a configuration whose T* is searched for."""
        key = content_hash(arm_identity(config))
        before, seeds = self.arms.get(key, (config, set()))
        seeds.add(config.seed)
        self.arms[key] = (more_measured(before, config), seeds)


class _Reader:
    """Reads one plan file. It knows the file's name for its messages."""

    def __init__(self, file: str, fixed: Mapping[str, Any], permit: Permit) -> None:
        self.file = file
        self.fixed = fixed
        self.permit = permit
        self.last: tuple[dict[str, Any], TrainConfig] | None = None
        """The last point without its seed, and its configuration."""

    def sweep(self, document: Mapping[str, Any], text: str) -> SweepSpec:
        self.known(document, PARTS, "")
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
        for key in sorted(self.fixed.keys() & set(PARTS)):
            self.refuse(
                f"--set {key} cannot be used: --set fixes a key of the trials, so change {key} in "
                "the plan file"
            )
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
        """Return the `[search]` section, checked."""
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
        """Return the arms to search, with the seeds of the plan. BN and GN of the same plan are
        their rivals.
        """
        if search is None:
            return ()
        if not open_.arms:
            self.refuse(
                "[search] has nothing to search: leave freeze_round out of a fixbn [[grid]] block"
            )
        rivals: dict[str, dict[str, TrainConfig]] = {}
        for trial in trials:
            if trial.config.normalizer in ("bn", "gn"):
                of_it = rivals.setdefault(comparison_of(trial.config), {})
                of_it.setdefault(trial.cell_id, trial.config)
        try:
            return tuple(
                ArmSpec.of(
                    config,
                    sorted(seeds),
                    search,
                    list(rivals.get(comparison_of(config), {}).values()),
                )
                for config, seeds in open_.arms.values()
            )
        except ValueError as error:
            self.refuse(f"[search] {error}{self.override_in(str(error))}")

    def budget(self, table: Any) -> Budget:
        """Return the rounds and hours that the sweep may train in all."""
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
        """Yield each configuration of the grid, and whether its T* is searched for."""
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
        """Return T*, given as rounds or as a fraction of them: "25%" is floor(0.25 T + 1/2)."""
        if isinstance(value, str) and value.strip() != AUTO:
            return share(Decimal(value.strip().removesuffix("%")) / 100, int(rounds))
        return AUTO if isinstance(value, str) else value

    def known(self, table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
        names = list(keys)
        for key in table:
            if key not in names:
                self.refuse(f"{where}{key} is not a key that fedsweep knows{_nearest(key, names)}")

    def value(self, key: str, value: Any, where: str) -> None:
        """Check one value against its own field, so that a bad value is refused even if unused."""
        if key == "freeze_round" and isinstance(value, (str, float)):
            self.percentage(value, where)
            return
        try:
            _adapter(key).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            setting = f"{where}{key} = {json.dumps(value, default=str)}"
            if first["type"] == "literal_error":
                choices = _choices(key)
                near = _near(str(value), choices)
                remedies = [near] if near else []
                if key in {registry.key for registry in REGISTRIES}:
                    remedies.append("install the package that offers it")
                remedy = ": " + " Otherwise ".join(remedies) if remedies else ""
                self.refuse(f"{setting} is none of {', '.join(choices)}{remedy}")
            reason = first["msg"][0].lower() + first["msg"][1:]
            self.refuse(f"{setting} cannot be used: {reason}")

    def percentage(self, value: str | float, where: str) -> None:
        setting = f"{where}freeze_round = {json.dumps(value)}"
        remedy = 'write a round (64), a share of the rounds ("50%"), or "auto"'
        if isinstance(value, str) and value.strip() == AUTO:
            return
        if isinstance(value, float):
            if not value.is_integer() or value < 0:
                self.refuse(f"{setting} is not a round: {remedy}")
            return
        try:
            percent = Decimal(value.strip().removesuffix("%"))
        except InvalidOperation:
            self.refuse(f"{setting} is not a share: {remedy}")
        sound = percent.is_finite() and value.strip().endswith("%")
        if not sound or not 0 <= percent <= 100:
            self.refuse(f"{setting} does not lie between 0% and 100%: {remedy}")

    def refuse(self, message: str) -> NoReturn:
        raise PlanError(f"{self.file}: {message}")


@functools.cache
def _adapter(key: str) -> TypeAdapter[Any]:
    """Return the validator of one field of TrainConfig."""
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


OTHER_NAMES = {
    "batchnorm": "bn",
    "clientfraction": "participation",
    "commrounds": "rounds",
    "communicationrounds": "rounds",
    "epochs": "local_epochs",
    "eta": "lr",
    "fractionfit": "participation",
    "freezeat": "freeze_round",
    "gradclip": "clip_norm",
    "gradientclipping": "clip_norm",
    "groupnorm": "gn",
    "groups": "gn_groups",
    "instancenorm": "in",
    "iterations": "local_steps",
    "layernorm": "ln",
    "learningrate": "lr",
    "localiterations": "local_steps",
    "maxgradnorm": "clip_norm",
    "maxnorm": "clip_norm",
    "numclients": "clients",
    "numgroups": "gn_groups",
    "numrounds": "rounds",
    "numusers": "clients",
    "steps": "local_steps",
    "t": "freeze_round",
    "tstar": "freeze_round",
    "weightnorm": "wn",
}
"""Names that other tools use, in lower case and letters only, with ours."""

ENDING = re.compile(r"(ali[sz]ation|[123]d)$")
"""The end of a name that is left out: GroupNormalization, BatchNorm2d."""


def _near(word: str, words: Sequence[str]) -> str:
    elsewhere = OTHER_NAMES.get(re.sub(r"[^a-z]", "", ENDING.sub("", word.lower())))
    same = [known for known in words if known == elsewhere]
    longer = [known for known in words if word and known.startswith(word)]
    near = same or longer or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""
