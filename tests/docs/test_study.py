"""The study: its page has the numbers of its results, and its results are those of its plans."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

from fedsweep.plans import read_plan
from reference import study
from reference.study import FOLDER, LEARNING_RATES, STUDY, Study
from tests.builders import REPOSITORY

PLANS = {
    STUDY: REPOSITORY / "examples" / "study_cifar10.toml",
    LEARNING_RATES: REPOSITORY / "examples" / "study_cifar10_lr.toml",
}
LARGEST = 5 * 2**20
"""Bytes that the results may take in the repository."""


@pytest.fixture(scope="module")
def results() -> Study:
    return Study.read()


def test_the_page_has_the_numbers_of_the_results() -> None:
    """`make reference` writes them again."""
    assert study.problem() is None


def test_a_page_with_another_number_is_named_with_its_remedy(tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    text = study.PAGE.read_text()
    first = study.BLOCK.search(text)
    assert first is not None
    page.write_text(text.replace(first[0], first[0].replace("±", "+/-", 1)))
    assert study.problem(page) == (
        "docs/study.md has other numbers than docs/study/: run make reference"
    )
    study.write(page)
    assert study.problem(page) is None


def test_the_page_has_the_number_of_trials(results: Study) -> None:
    assert f"We trained {len(results.results)} trials" in study.PAGE.read_text()


def test_every_table_is_in_the_page() -> None:
    named = [found[2] for found in study.BLOCK.finditer(study.PAGE.read_text())]
    assert sorted(named) == sorted(study.TABLES)


def test_the_results_are_small_enough_for_the_repository() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST


@pytest.mark.parametrize("sweep", PLANS)
def test_every_cell_of_the_plan_has_results(sweep: str, results: Study) -> None:
    """Each planned trial has finished under the id that the plan gives it."""
    trials = results.of(sweep)
    (fingerprint,) = {trial["fingerprint"] for trial in trials}
    plan = read_plan(PLANS[sweep], [f"fingerprint={fingerprint}"])
    planned = {trial.trial_id for trial in plan.trials}
    assert len(planned) >= 96
    assert planned <= {trial["trial_id"] for trial in trials}


def test_a_difference_is_that_of_scipy(results: Study) -> None:
    """Mean and interval of a row, from the files."""
    setting = (20, "reset", 0.1)
    bn, gn = results.arm(setting, "bn"), results.arm(setting, "gn")
    assert sorted(bn) == sorted(gn) == [0, 1, 2]
    test = stats.ttest_rel([bn[s] for s in sorted(bn)], [gn[s] for s in sorted(bn)])
    low, high = test.confidence_interval(0.95)
    mean = sum(bn[s] - gn[s] for s in bn) / len(bn)
    interval = study.unbroken(f"[{100 * low:+.1f}, {100 * high:+.1f}]")
    assert study.points(bn, gn).startswith(f"{100 * mean:+.1f} {interval}")


def test_the_report_has_the_numbers_of_the_results(results: Study) -> None:
    """The linked HTML report was written by `fedsweep report` from the same trials."""
    report = (FOLDER / "report.html").read_text()
    for setting in results.settings:
        for normalizer in ("bn", "fixbn", "gn"):
            values = [100 * value for value in results.arm(setting, normalizer).values()]
            assert f"{fmean(values):.2f} ± {stdev(values):.2f}" in report, (setting, normalizer)
