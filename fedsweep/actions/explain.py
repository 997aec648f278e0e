"""Each key of a plan with its values, and whether the plan gives it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedsweep.plans import OUTSIDE_IDENTITY, PINNED, SweepSpec, Trials
from fedsweep.reports.labels import field_text

MOST_VALUES = 6
"""Values of a key that are listed, at most."""

UNNAMED = frozenset({"seed", "fingerprint", "partition_fingerprint"})
"""Keys that are no choice of the user's."""


@dataclass(frozen=True)
class KeyFacts:
    """A key of a plan."""

    name: str
    values: tuple[str, ...]
    """Its values in the trials; none if it has no meaning in any of them."""
    given: bool
    """True if the plan or `--set` gives it."""
    changes_numbers: bool
    """True if the trained numbers depend on it."""

    @property
    def silent(self) -> bool:
        """True if it is a default that changes numbers."""
        return bool(self.values) and self.changes_numbers and self.chosen == "default"

    @property
    def chosen(self) -> str:
        """Return the origin of its values: the plan, the content of files, or the default."""
        if self.name in PINNED:
            return "files"
        return "plan" if self.given else "default"


def explain(sweep: SweepSpec, settings: Iterable[str]) -> list[KeyFacts]:
    """Return all keys of a plan. `settings` are the texts of `--set`."""
    found = Trials.of(sweep.trials).values
    given = {text.partition("=")[0].strip() for text in settings} | set(_given(sweep.text))
    return [
        KeyFacts(
            name,
            tuple(_texts(name, [*values, *(getattr(arm.config, name) for arm in sweep.arms)])),
            name in given,
            name not in OUTSIDE_IDENTITY,
        )
        for name, values in found.items()
        if name not in UNNAMED
    ]


def _given(text: str) -> Iterator[str]:
    """Yield the keys that the text of a plan gives."""
    document = tomllib.loads(text)
    yield from document.get("protocol", {})
    for grid in document.get("grid", []):
        yield from grid
    if "search" in document:
        yield "freeze_round"


def _texts(name: str, values: Iterable[Any]) -> list[str]:
    """Return the values of a key as texts, each once. None is no value."""
    return list(dict.fromkeys(field_text(name, value) for value in values if value is not None))
