"""The generated pages, by the name of their file in `docs/reference/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reference import (
    algorithms,
    commands,
    datasets,
    environment,
    errors,
    examples,
    measures,
    models,
    normalizers,
    plan_file,
    python,
    recipes,
    states,
    views,
)
from reference.docstrings import REPOSITORY

FOLDER = REPOSITORY / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "plan-file": plan_file.page,
    "views": views.page,
    "recipes": recipes.page,
    "states-and-failures": states.page,
    "errors": errors.page,
    "normalizers": normalizers.page,
    "models": models.page,
    "datasets": datasets.page,
    "algorithms": algorithms.page,
    "measures": measures.page,
    "environment": environment.page,
    "python": python.page,
    "examples": examples.page,
}
"""The function that returns each page. The order is that of the navigation."""


def file_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of a page."""
    return folder / f"{name}.md"


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        file_of(name, folder).write_text(page(), encoding="utf-8")


def problem(name: str, folder: Path = FOLDER) -> str | None:
    """Return why a page is not what the code generates, with the remedy; None if it is."""
    file = file_of(name, folder)
    shown = file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file
    if not file.is_file():
        return f"{shown} is missing: run make reference"
    if file.read_text(encoding="utf-8") != PAGES[name]():
        return f"{shown} is not what the code generates: run make reference, and commit the page"
    return None
