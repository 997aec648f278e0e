"""The generated pages: each is what the code generates, and the catalogs are complete."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from fedsweep import errors
from fedsweep.plans import read_document
from fedsweep.settings import VARIABLES
from fedsweep.states import FailureKind, Hold, Outcome, TrialState
from fedsweep.store import tables
from reference import docstrings, plan_file, views
from reference import errors as errors_page
from reference.markdown import prose, sentence, table
from reference.pages import FOLDER, PAGES, problem, write
from trainers.config import CONDITIONS, USED_WHEN, TrainConfig, field_defaults


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_generates(name: str) -> None:
    """`make reference` writes it again."""
    assert problem(name) is None


def test_every_page_of_the_reference_is_generated() -> None:
    """A page that nothing generates would drift."""
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PAGES)


def test_a_page_that_differs_or_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    write(tmp_path)
    assert [name for name in PAGES if problem(name, tmp_path)] == []
    (tmp_path / "errors.md").write_text("another page")
    (tmp_path / "views.md").unlink()
    assert problem("errors", tmp_path) == (
        f"{tmp_path}/errors.md is not what the code generates: run make reference, and commit the "
        "page"
    )
    assert problem("views", tmp_path) == f"{tmp_path}/views.md is missing: run make reference"


def test_a_new_option_or_variable_changes_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is generated again, the check fails."""
    from reference import environment

    monkeypatch.setattr(environment, "VARIABLES", VARIABLES[1:])
    assert problem("environment") is not None
    monkeypatch.undo()
    assert problem("environment") is None


def test_the_example_of_a_plan_is_accepted() -> None:
    """It has the trials of both blocks."""
    plan = read_document(tomllib.loads(plan_file.EXAMPLE))
    assert (len(plan.trials), plan.budget and plan.budget.hours) == (60, 2)


class Recorded(dict[str, Any]):
    """A configuration that records the keys that are read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def configurations() -> Iterator[dict[str, Any]]:
    """Yield configurations that lead each condition through all of its parts."""
    base = {**field_defaults(TrainConfig), "dataset": "digits", "model": "cnn", "rounds": 2}
    for normalizer in ("bn", "fixbn"):
        for centralized in (False, True):
            for momentum in ("reset", "none"):
                yield base | {
                    "normalizer": normalizer,
                    "centralized": centralized,
                    "momentum": momentum,
                }


@pytest.mark.parametrize("key", USED_WHEN)
def test_the_condition_of_a_key_names_the_keys_that_it_reads(key: str) -> None:
    """In words, each is in backquotes."""
    read: set[str] = set()
    for values in configurations():
        recorded = Recorded(values)
        USED_WHEN[key](recorded)
        read |= recorded.read
    assert read == set(re.findall(r"`(\w+)`", CONDITIONS[key]))


def test_every_key_column_and_table_is_explained() -> None:
    """The explanation is where the code declares it."""
    told = docstrings.of_attributes("trainers/config.py", "TrainConfig")
    assert [name for name in TrainConfig.model_fields if not told.get(name)] == []
    assert [row for name in views.columns() for row in views._section(name) if not row] == []
    names = {name for name, text in docstrings.of_names("fedsweep/store/tables.py").items() if text}
    declared = {getattr(tables, name, None) for name in names}
    assert [t.name for t in tables.metadata.sorted_tables if t not in declared] == []


@pytest.mark.parametrize("kind", [TrialState, FailureKind, Outcome, Hold])
def test_every_state_failure_outcome_and_hold_has_a_paragraph(kind: type[StrEnum]) -> None:
    told = docstrings.of_attributes("fedsweep/states.py", kind.__name__)
    assert [member.name for member in kind if not told[member.name]] == []


@pytest.mark.parametrize("kind", list(errors_page._all()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_message_and_a_remedy(kind: type[errors.FedsweepError]) -> None:
    """Its exit code has a meaning, too."""
    message, remedy = errors_page.parts(kind)
    assert message
    assert remedy.endswith(".")
    assert kind.exit_code in errors.EXIT_CODES


def test_the_tree_of_errors_has_every_class() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    assert set(errors_page._all()) == {c for c in classes if issubclass(c, errors.FedsweepError)}


def test_prose_keeps_code_and_escapes_other_signs() -> None:
    """T* is the freeze round."""
    assert prose("T* of\n`a_b*` <c>_d [e]") == r"T⋆ of `a_b*` \<c\>\_d \[e\]"
    assert (
        sentence("A (Li et al. 2020) is 0.5 here. Then more.") == "A (Li et al. 2020) is 0.5 here."
    )
    assert table(["a"], [["b|c"]]) == "| a |\n| --- |\n| b\\|c |"
