"""The how-to pages: each is run, or names the tests that run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import REPOSITORY
from tests.docs.reader import agrees, demo_of, excerpts, follow

PAGES = sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))
RUN = [page for page in PAGES if "Tested by: this page" in page.read_text()]
LONG = ("exports", "paper-table")
"""The pages that take three seconds, because they plan large grids or import large packages."""
EXCERPTS = [page for page in PAGES if list(excerpts(page.read_text()))]


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in LONG else ())
        for page in RUN
    ],
)
def test_a_page_prints_what_it_shows(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its trials are random walks, which need no torch."""
    assert follow(page, tmp_path, demo_of(page, tmp_path_factory, "demo")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows_after_real_training(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The demo takes a minute, once for all pages. Accuracies and times are not compared."""
    assert follow(page, tmp_path, demo_of(page, tmp_path_factory, "real-demo")) >= 3


@pytest.mark.parametrize("page", EXCERPTS, ids=lambda page: page.stem)
def test_an_excerpt_has_the_lines_of_its_file(page: Path) -> None:
    """They are in the same order. The page may leave lines out."""
    for name, lines in excerpts(page.read_text()):
        rest = iter((REPOSITORY / name).read_text().splitlines())
        assert [line for line in lines if line not in rest] == [], name


def test_there_are_pages_that_run_and_excerpts() -> None:
    """Otherwise the tests above would test nothing."""
    assert len(PAGES) == 25
    assert len(RUN) >= 8
    assert len(EXCERPTS) == 4


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("6 trials finished, 0 failed", "6 trials finished, 0 failed\n", True),
        ("6 trials finished, 0 failed", "5 trials finished, 1 failed\n", False),
        ("finished 77.78% in 16s  [1/6, 1m18s left]", "finished 3.10% in 1s  [2/6, 0s left]", True),
        (
            "da9e5b40 bn seed=0: finished 1.00%\n…\n2 done",
            "a0f0bc91 bn seed=1: finished 9%\nf49b82ab bn seed=0: finished 2.00%\n2 done",
            True,
        ),
        (
            "da9e5b40 bn seed=0: finished 1.00%\n1 trial finished",
            "da9e5b40 bn seed=0: finished 1.00%\nf49b82ab bn seed=1: finished 9%\n1 trial finished",
            False,
        ),
        (
            "da9e5b40 bn seed=0: finished 1.00%\n…\n1 trial finished",
            "da9e5b40 gn seed=0: finished 1.00%\n1 trial finished",
            False,
        ),
        ("da9e5b40 bn", "f49b82ab bn", True),
        ("da9e5b40 bn", "f49b82ab gn", False),
        ("one\n…\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one\n…\nfour", "one\nfour\n", True),
        ("one\n…", "two\nthree\n", False),
        ("one", "one\ntwo\n", False),
        ("…/report.html", "/tmp/a/report.html\n", True),
        ("│ 0.5 │ 75.93 ± 8.49 │", "│  0.1 │ 7.93 ± 18.49 * │\n", True),
    ],
)  # fmt: skip
def test_a_page_agrees_with_a_run_up_to_times_ids_and_decimals(
    shown: str, output: str, same: bool
) -> None:
    """Words and whole numbers are compared. An ellipsis stands for any text."""
    assert agrees(shown, output) is same
