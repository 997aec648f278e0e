"""Registries: the names of our own parts, and of those that other installed packages offer.

Another package offers a part by an entry point. Its name is a value of a plan's key. This file
imports no torch and none of the offered code, so that planning a sweep stays fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

CODE_DIGITS = 16
"""Hexadecimal digits of the hash of a package's code."""


@dataclass(frozen=True)
class Registry:
    """The values of one key of a plan."""

    key: str
    """The key, as `model`. It is also the word for it in messages."""
    group: str
    """The group of entry points under which other packages offer theirs."""
    ours: tuple[str, ...]
    """The names of our own. No other package can replace them."""
    family: str = ""
    """The beginning of further names that are ours, as `timm:`; "" if there are none."""

    def has_own(self, name: str) -> bool:
        """Return whether a name is one of ours."""
        return name in self.ours or (self.family != "" and name.startswith(self.family))

    def names(self) -> tuple[str, ...]:
        """Return our names, then those of other installed packages."""
        return _names(self)

    def offered(self, name: str) -> EntryPoint | None:
        """Return the entry point of another package's part; None for ours, or without one."""
        if self.has_own(name):
            return None
        return next(iter(entry_points(group=self.group, name=name)), None)

    def load(self, name: str) -> Any:
        """Import another package's part.

        Raises:
            ValueError: no installed package offers it.

        """
        if (point := self.offered(name)) is None:
            raise ValueError(
                f"no installed package offers the {self.key} {name}: install it here too"
            )
        return point.load()

    def checked(self, name: str) -> str:
        """Return a name that is installed here.

        Raises:
            PydanticCustomError: no installed package offers it.

        """
        if not self.has_own(name) and name not in self.names():
            raise PydanticCustomError(
                "literal_error",
                "{name} is no {key} that is installed here: install the package that offers it",
                {"name": name, "key": self.key},
            )
        return name

    def tell(self, schema: dict[str, Any]) -> None:
        """Add the names to the JSON schema of the key."""
        schema["enum"] = [*self.names(), *([f"{self.family}NAME"] if self.family else [])]


@cache
def _names(registry: Registry) -> tuple[str, ...]:
    others = {point.name for point in entry_points(group=registry.group)}
    return (*registry.ours, *sorted(others - set(registry.ours)))


def foreign_parts(
    registries: Iterable[Registry], values: Mapping[str, Any]
) -> list[tuple[Registry, str]]:
    """Return the parts of a configuration that are not ours, each with its registry."""
    named = [(registry, values.get(registry.key)) for registry in registries]
    return [
        (registry, name)
        for registry, name in named
        if isinstance(name, str) and not registry.has_own(name)
    ]


def code_of(
    registries: Iterable[Registry],
    values: Mapping[str, Any],
    read: Callable[[EntryPoint], str] | None = None,
) -> str | None:
    """Return the code of a configuration's parts that are not ours; None if all are ours.

    It has "package version hash" for each package, joined by "; ". `read` returns the hash of a
    package's files, by default `code_hash`.

    Raises:
        ValueError: a package is not installed, or its files cannot be read.

    """
    codes = set()
    for registry, name in foreign_parts(registries, values):
        if (point := registry.offered(name)) is None:
            raise ValueError(f"no installed package offers the {registry.key} {name}")
        codes.add(f"{release(point)} {(read or code_hash)(point)}")
    return "; ".join(sorted(codes)) or None


@cache
def loaded_hash(point: EntryPoint) -> str:
    """Return `code_hash` as it was at the first call of this process.

    A process that has imported a package goes on with that code when its files change.
    """
    return code_hash(point)


def release(point: EntryPoint) -> str:
    """Return the name and version of the package that offers a part; "?" if it has none."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"


def code_hash(point: EntryPoint) -> str:
    """Return a hash of the Python files of the package that offers a part, without importing it.

    Raises:
        ValueError: its files cannot be read.

    """
    top = point.module.partition(".")[0]
    try:
        spec = find_spec(top)
        if spec is None or spec.origin is None:
            raise ValueError(
                f"{point.value}, offered as {point.name}, has no Python file: mend the "
                "installation of its package"
            )
        origin = Path(spec.origin)
        root = origin.parent
        files = sorted(root.rglob("*.py")) if spec.submodule_search_locations else [origin]
        content = hashlib.sha256()
        for file in files:
            content.update(f"{file.relative_to(root).as_posix()}\0".encode())
            content.update(hashlib.sha256(file.read_bytes()).digest())
    except (ImportError, OSError) as error:
        raise ValueError(
            f"{point.value}, offered as {point.name}, cannot be read ({error}): mend the "
            "installation of its package"
        ) from error
    return content.hexdigest()[:CODE_DIGITS]
