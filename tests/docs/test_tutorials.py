"""The tutorials: their commands are run, and print what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import REPOSITORY
from tests.docs.reader import WIDTH, blocks, demo_of, follow

TUTORIALS = sorted((REPOSITORY / "docs" / "tutorial").glob("*.md"))
SEARCHING = "searching-t-star"
"""A search tries what the accuracies suggest. So another processor prints other numbers."""

WIDTHS = {"reading-the-report": "110"}
"""Columns of the terminal, if the tables of a page need more than the other pages' 100."""


def commands(page: Path) -> int:
    """Return the number of commands that a page's reader types."""
    consoles = (block for block in blocks(page.read_text()) if block.language == "console")
    return sum(len(list(block.steps())) for block in consoles)


def try_out(page: Path, folder: Path, demo: Path | None) -> None:
    """Follow a tutorial to its end. Of a search, only exit codes are compared."""
    done = follow(
        page, folder, demo, compares=page.stem != SEARCHING, width=WIDTHS.get(page.stem, WIDTH)
    )
    assert done == commands(page) >= 4


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its trials are random walks, which need no torch."""
    try_out(page, tmp_path, demo_of(page, tmp_path_factory, "demo"))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows_after_real_training(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Accuracies and times are not compared."""
    try_out(page, tmp_path, demo_of(page, tmp_path_factory, "real-demo"))


def test_there_are_three_tutorials() -> None:
    """One of them is about searching."""
    assert len(TUTORIALS) == 3
    assert SEARCHING in [page.stem for page in TUTORIALS]
