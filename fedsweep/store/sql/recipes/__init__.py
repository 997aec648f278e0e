"""Questions that many ask, each a SELECT over the views: the same text on both databases.

A recipe is a file `NAME.sql` here: one sentence in comments, then the statement. `:sweep` is bound
to a sweep's name, or to NULL for all of them. Accuracies are shares 0…1, of the test set.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fedsweep.errors import NotFound


@dataclass(frozen=True)
class Recipe:
    """A named question."""

    name: str
    about: str
    """The question that it answers, in one sentence."""
    text: str
    """The whole file, its sentence included: it can be run as it is."""


@cache
def recipes() -> tuple[Recipe, ...]:
    """Return all recipes, by name."""
    files = (file for file in resources.files(__name__).iterdir() if file.name.endswith(".sql"))
    return tuple(
        _read(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    )


def recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        NotFound: there is none; says which is nearest.

    """
    known = {recipe.name: recipe for recipe in recipes()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]}? " if near else ""
    raise NotFound(f"there is no recipe {name!r}: {meant}`fedsweep sql --recipes` lists them")


def _read(name: str, text: str) -> Recipe:
    lines = text.splitlines()
    comments = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    return Recipe(name, " ".join(comments), text)
