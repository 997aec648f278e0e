"""The page on the Python interface."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import fedsweep
from fedsweep import interface
from fedsweep.worker.status import Tally
from reference import docstrings
from reference.markdown import code, document, fence, prose, table

SOURCE = "fedsweep/interface.py"


def page() -> str:
    """Return the page."""
    values = {name: getattr(fedsweep, name) for name in fedsweep.__all__}
    functions = {name: value for name, value in values.items() if inspect.isfunction(value)}
    order = [name for name in vars(interface) if name in functions]
    return document(
        "Python interface",
        "`import fedsweep` gives these functions. Each does what the command of the same name "
        "does, with the same code. The database is the argument `db`, otherwise `$FEDSWEEP_DB`, "
        "otherwise `sqlite:///fedsweep.db` in the working folder. Every error is a "
        "[`fedsweep.errors.FedsweepError`](errors.md) with one sentence.",
        *(block for name in order for block in _function(name, functions[name])),
        "## `fedsweep.Report`",
        *_class(fedsweep.Report),
        "## `fedsweep.Planned`",
        *_dataclass(fedsweep.Planned, SOURCE),
        "## `Tally`",
        *_dataclass(Tally, "fedsweep/worker/status.py"),
        "## `Round`",
        "The measurements of a round, which `fedsweep.train` yields. Its attributes are `round`, "
        "`phase`, the [measures](measures.md) of a round, and `clients`.",
        sources=(SOURCE,),
    )


def _function(name: str, function: Any) -> Iterator[str]:
    yield f"## `fedsweep.{name}`"
    yield fence(signature(name, function), "python")
    yield from _docstring(inspect.getdoc(function) or "")


def signature(name: str, function: Any) -> str:
    """Return a function with its arguments, one on each line."""
    told = inspect.signature(function)
    lines = []
    keyword = False
    for parameter in told.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            lines.append("    *,")
        value = parameter.default
        spelled = json.dumps(value) if isinstance(value, str) else repr(value)
        default = "" if value is parameter.empty else f" = {spelled}"
        lines.append(f"    {parameter.name}: {parameter.annotation}{default},")
    return "\n".join([f"def {name}(", *lines, f") -> {told.return_annotation}: ..."])


def _docstring(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text):
        if part.startswith(">>> "):
            yield fence(part.replace("  # doctest: +SKIP", ""), "pycon")
        elif part.startswith("Raises:"):
            yield "Raises:"
            raised = re.findall(r"^    (\w+): ((?:.|\n(?!    \w+: ))+)", part, flags=re.MULTILINE)
            yield "\n".join(f"- {code(kind)}: {prose(reason)}" for kind, reason in raised)
        else:
            yield prose(part)


def _class(kind: type) -> Iterator[str]:
    yield prose(inspect.getdoc(kind) or "")
    methods = {
        name: value
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    rows = ([code(f"{name}()"), prose(inspect.getdoc(m) or "")] for name, m in methods.items())
    yield table(["method", "result"], rows)


def _dataclass(kind: Any, path: str) -> Iterator[str]:
    yield prose(inspect.getdoc(kind) or "")
    told = docstrings.of_attributes(path, kind.__name__)
    yield table(
        ["attribute", "type", "meaning"],
        (
            [code(field.name), code(field.type), prose(told[field.name])]
            for field in dataclasses.fields(kind)
        ),
    )
