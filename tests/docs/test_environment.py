"""Every environment variable that the code reads is declared."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsweep.machine import USER_FOLDERS
from fedsweep.settings import VARIABLES
from tests.builders import REPOSITORY

DECLARED = {variable.name for variable in VARIABLES}
FILES = [path for name in ("fedsweep", "trainers") for path in (REPOSITORY / name).rglob("*.py")]

LOCAL = {
    ("fedsweep/machine.py", "variable"): tuple(USER_FOLDERS),
    ("fedsweep/store/connector.py", "name"): ("PGSERVICE",),
    ("fedsweep/settings.py", "name"): (),  # `setting`, whose callers are found
    ("fedsweep/launch/environment.py", "name"): (),  # a variable that the user names
}
"""The variables that a local name stands for, by file and name."""

METHODS = frozenset({"get", "setdefault", "pop"})

WORDS = re.compile("environ|getenv|setting")
"""A file that reads a variable has one of these words."""


def reads(path: Path) -> Iterator[tuple[int, ast.expr]]:
    """Yield the line and the name of each variable that a file reads or sets."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and is_environ(node.value):
            yield node.lineno, node.slice
        elif isinstance(node, ast.Call) and node.args:
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            method = isinstance(called, ast.Attribute) and is_environ(called.value)
            if name in ("getenv", "setting") or (method and name in METHODS):
                yield node.lineno, node.args[0]
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            yield node.value.lineno, node.value


def is_environ(node: ast.expr) -> bool:
    return getattr(node, "attr", getattr(node, "id", "")) == "environ"


def names(path: Path, node: ast.expr) -> tuple[str, ...]:
    """Return the variables that an expression names, or raise if it cannot be known."""
    if isinstance(node, ast.Constant):
        return (node.value,)
    text = ast.unparse(node)
    local = (path.relative_to(REPOSITORY).as_posix(), text)
    if local in LOCAL:
        return LOCAL[local]
    module = importlib.import_module(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    )
    if text == "VARIABLE":  # imported where it is used
        module = importlib.import_module("fedsweep.store.trust")
    value: object = module
    for part in text.split("."):
        value = getattr(value, part)
    assert isinstance(value, str), f"{path}: {text}"
    return (value,)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if WORDS.search(path.read_text()) and list(reads(path))],
    ids=lambda path: path.stem,
)
def test_every_variable_that_a_file_reads_is_declared(path: Path) -> None:
    """`fedsweep.settings` declares it, with its meaning and its default."""
    found = {name for _line, node in reads(path) for name in names(path, node)}
    assert found - DECLARED == set()


def test_every_variable_of_ours_is_declared() -> None:
    """Those of the tests are not part of the interface, except for the engine."""
    texts = "\n".join(path.read_text() for path in FILES)
    ours = set(re.findall(r"\bFEDSWEEP_[A-Z_]*[A-Z]\b", texts)) - {"FEDSWEEP_TEST"}
    assert ours == {name for name in DECLARED if name.startswith("FEDSWEEP_")}


def test_no_variable_is_declared_twice() -> None:
    assert len(DECLARED) == len(VARIABLES)
    assert [v.name for v in VARIABLES if v.ours != v.name.startswith("FEDSWEEP_")] == []
