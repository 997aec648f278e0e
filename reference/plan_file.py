"""The page on the plan file: its tables, and every key."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt

from fedsweep.fields import CATALOG
from fedsweep.plans import OUTSIDE_IDENTITY, PINNED, SearchSpec, TrainConfig
from fedsweep.plans.arms import Lattice
from reference import docstrings
from reference.markdown import code, document, fence, prose, table
from trainers.config import CONDITIONS, LARGEST
from trainers.own_algorithms import OWN as ALGORITHMS

CONFIG, ARMS, SWEEP = "trainers/config.py", "fedsweep/plans/arms.py", "fedsweep/plans/sweep.py"

GROUPS = {
    "dataset": "Data",
    "model": "Model and normalizer",
    "centralized": "Clients",
    "rounds": "Training",
    "algorithm": "Algorithm and regularization",
    "seed": "Seed, measurements and files",
}
"""The heading before a key. The keys that follow belong to it too."""

PAGES = {
    "dataset": "datasets.md",
    "model": "models.md",
    "normalizer": "normalizers.md",
    "algorithm": "algorithms.md",
}
"""The page that lists the values of a key."""

EXAMPLE = """
name = "first"

[protocol]                        # the same for every trial
dataset = "digits"
model = "cnn"
partition = "dirichlet"
clients = 10
rounds = 24
batch_size = 20
lr = 0.05
validation = 0.1

[[grid]]                          # all combinations of these
normalizer = ["bn", "gn"]
alpha = [0.1, 1.0]
local_steps = [1, 5]
seed = [0, 1, 2]

[[grid]]
normalizer = "fixbn"
freeze_round = ["25%", "50%", 18]
alpha = [0.1, 1.0]
local_steps = [1, 5]
seed = [0, 1, 2]

[budget]
hours = 2
"""
"""A plan that `plan` accepts as it is: a test plans it."""

PARTS = {
    "name": "The name of the sweep: 1 to 100 letters, digits, spaces and `.`, `+`, `-`, `_`. It "
    "is required.",
    "[protocol]": "[Keys](#data) that are the same for every trial. A list is refused.",
    "[[grid]]": "[Keys](#data) with one value or a list. A block gives all combinations of its "
    "lists. Several blocks are joined, and equal trials are merged.",
    "[search]": "[Keys of a search](#search) for the best T⋆. It needs a fixbn block without "
    "`freeze_round`.",
    "[budget]": "[Limits](#budget) of the training of the sweep.",
}
"""The parts of a plan file."""


def page() -> str:
    """Return the page."""
    return document(
        "The plan file",
        "A plan is a TOML file. `fedsweep plan FILE` turns it into trials. A dictionary with the "
        "same tables and keys is a plan for [`fedsweep.plan`](python.md#fedsweepplan).",
        fence(EXAMPLE.strip(), "toml"),
        table(["part", "contents"], ([code(part), text] for part, text in PARTS.items())),
        "`--set KEY=VALUE` replaces a key of `[protocol]` and of every block. "
        "`fedsweep plan FILE --dry-run --explain` prints each key with its value, and who has "
        "chosen it. A key that has no meaning with the others is ignored, and `plan` names it. "
        "A wrong value is refused, even if it has no meaning.",
        "**Identity.** A trial's id is a hash of its seed and of all keys that are not at their "
        "defaults. So a key at its default is not part of it, and a default never changes.",
        "**Size.** A plan is counted before its trials are built. Above ten million points, before "
        "duplicates are merged, `plan` asks, or needs `--yes`. `--dry-run` of more than a million "
        "points only counts them.",
        *_keys(),
        "## Search",
        *_search(),
        "## Budget",
        "At the limit, running trials are saved and given back. "
        "`fedsweep sweep budget` changes it later.",
        *_budget(),
        sources=(CONFIG, "fedsweep/fields.py", ARMS, SWEEP),
    )


def _keys() -> Iterator[str]:
    meanings = docstrings.of_attributes(CONFIG, "TrainConfig")
    units = {field.name: field.unit for field in CATALOG}
    names = list(TrainConfig.model_fields)
    first = [*map(names.index, GROUPS), len(names)]
    for place, name in enumerate(names):
        if name in GROUPS:
            members = names[place : first[first.index(place) + 1]]
            yield f"## {GROUPS[name]}"
            yield ", ".join(f"[{code(member)}](#{member})" for member in members)
        yield f"### {code(name)}"
        yield prose(meanings[name])
        facts = [_type(name), _unit(units[name]), _default(name), _condition(name), _identity(name)]
        yield "\n".join(f"- {fact}" for fact in facts if fact)


@functools.cache
def _schema() -> dict[str, Any]:
    properties: dict[str, Any] = TrainConfig.model_json_schema()["properties"]
    return properties


def _type(name: str) -> str:
    if name in PAGES:
        title = {"dataset": "data set"}.get(name, name)
        return f"Value: one of the [{title}s]({PAGES[name]})"
    also = '; a fraction such as `"50%"`; `"auto"`' if name == "freeze_round" else ""
    return f"Value: {_values(TrainConfig.model_fields[name], _schema()[name])}{also}"


def _values(info: Any, schema: dict[str, Any]) -> str:
    """Return the values that a field allows, in words."""
    variants = [v for v in schema.get("anyOf", [schema]) if v.get("type") != "null"]
    return ", ".join([" or ".join(map(_variant, variants)), *_limits(info)])


def _variant(schema: dict[str, Any]) -> str:
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices:
        return ", ".join(code(choice) for choice in choices)
    words = {"boolean": "`true` or `false`", "string": "text"}
    return str(words.get(schema["type"], schema["type"]))


LIMITS = (
    (Ge, "ge", "{} or more"),
    (Gt, "gt", "above {}"),
    (Le, "le", "{} or less"),
    (Lt, "lt", "below {}"),
)
"""The kinds of limits of a number, in words."""


def _limits(info: Any) -> Iterator[str]:
    """Yield the limits of a field, except for those that only a database has."""
    found = [*info.metadata, *_metadata(info.annotation)]
    for kind, attribute, words in LIMITS:
        values = [getattr(each, attribute) for each in found if isinstance(each, kind)]
        yield from (words.format(f"{v:,}") for v in values if v not in (LARGEST, 2**32))


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield the checks of an annotation, at every depth."""
    for each in getattr(annotation, "__metadata__", ()):
        yield from (each, *getattr(each, "metadata", ()))
    for argument in get_args(annotation):
        if not isinstance(argument, str):
            yield from _metadata(argument)


def _unit(unit: str) -> str:
    return f"Unit: {unit}" if unit else ""


def _default(name: str) -> str:
    info = TrainConfig.model_fields[name]
    own = {each.name: each.defaults[name] for each in ALGORITHMS if name in each.defaults}
    if own:
        told = ", ".join(f"{_toml(value)} for {algorithm}" for algorithm, value in own.items())
        return f"Default: {told}"
    if name in PINNED:
        return "Default: `plan` sets it from the files that it finds"
    if info.is_required():
        return "Required"
    if info.default is not None:
        return f"Default: {_toml(info.default)}"
    optional = {field.name for field in CATALOG if field.unset} | {"snapshot_every", "local_steps"}
    return "Default: none" if name in optional else "Required if it has a meaning"


def _toml(value: Any) -> str:
    spelled = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    return code(spelled or (f'"{value}"' if isinstance(value, str) else f"{value:g}"))


def _condition(name: str) -> str:
    return f"Has a meaning if {prose(CONDITIONS[name])}" if name in CONDITIONS else ""


def _identity(name: str) -> str:
    if name in OUTSIDE_IDENTITY:
        return "Part of the identity: no, it only changes what is measured or kept"
    default = TrainConfig.model_fields[name].default
    always = name == "seed" or default is None or TrainConfig.model_fields[name].is_required()
    return f"Part of the identity: yes{'' if always else ', if it is not at its default'}"


def _search() -> Iterator[str]:
    yield table(
        ["key", "value", "default", "meaning"],
        (
            row
            for model, prefix in ((SearchSpec, ""), (Lattice, "freeze_round."))
            for row in _rows(model, prefix, docstrings.of_attributes(ARMS, model.__name__))
        ),
    )


def _rows(model: Any, prefix: str, meanings: dict[str, str]) -> Iterator[list[str]]:
    properties = model.model_json_schema()["properties"]
    for name, info in model.model_fields.items():
        if name == "freeze_round":
            values, default = "table", "the lattice below"
        else:
            values, default = _values(info, properties[name]), _toml(info.default)
        text = re.sub(r"\binteger or text\b", 'rounds, or a fraction such as `"10%"`', values)
        yield [code(prefix + name), text, default, prose(meanings[name])]


def _budget() -> Iterator[str]:
    meanings = docstrings.of_attributes(SWEEP, "Budget")
    kinds = {"rounds": "integer, 1 or more", "hours": "number, above 0"}
    yield table(
        ["key", "value", "default", "meaning"],
        ([code(name), kinds[name], "no limit", prose(text)] for name, text in meanings.items()),
    )
