"""The screen that compares two trials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.serve.app import _query, screen_state
from fedsweep.serve.read_cache import ReadCache
from tests.unit.serve import study
from tests.unit.serve.pages import HOSTILE, text

pytestmark = pytest.mark.quick_on("sqlite")


@pytest.fixture
def studied(store: Engine, tmp_path: Path) -> Engine:
    study.fill(store, tmp_path)
    return store


@pytest.fixture
def bn(studied: Engine) -> str:
    return study.ids(studied, normalizer="bn", alpha=0.1, seed=0)[0]


@pytest.fixture
def fixbn(studied: Engine) -> str:
    return study.ids(studied, freeze_round=6, alpha=0.1, seed=0)[0]


def test_fields_that_differ_are_marked_and_come_first(
    client: TestClient, bn: str, fixbn: str
) -> None:
    """A field that only one trial has is shown as missing in the other."""
    page = client.get(f"/compare?trial={bn}&trial={fixbn}").text
    rows = re.findall(r'<tr( class="differs")?><th scope="row">(\w+)(.*?)</tr>', page)
    marked = [name for mark, name, _ in rows if mark]
    assert marked == [name for _, name, _ in rows][: len(marked)]
    assert set(marked) == {"normalizer", "freeze_round", "freeze", "freeze_rule"}
    assert all("≠" in rest for mark, _, rest in rows if mark)
    assert not any("≠" in rest for mark, _, rest in rows if not mark)
    content = text(page)
    assert "freeze_round ≠ – 6" in content
    assert "normalizer ≠ bn fixbn" in content
    assert "local_steps 2 2" in content


def test_results_and_equal_rounds_are_shown(client: TestClient, bn: str, fixbn: str) -> None:
    """FIXBN equals BN up to T⋆."""
    content = text(client.get(f"/compare?trial={bn[:14]}&trial={fixbn}").text)
    assert "The first 6 rounds of both trials have equal numbers." in content
    assert "round 12 of 12 12 of 12" in content
    assert re.search(r"test accuracy, % 56\.\d\d 77\.\d\d 21\.00", content)


def figures(cache: ReadCache, *trials: str) -> dict[str, Any]:
    query = _query("compare", [("trial", trial) for trial in trials])
    return dict(screen_state(cache, "compare", query)[0].figures)


def test_both_trials_are_drawn_in_one_figure(read_cache: ReadCache, bn: str, fixbn: str) -> None:
    """There is a line per trial and measure. The dash names the samples."""
    drawn = figures(read_cache, bn, fixbn)
    lines = [(t["name"], t["dash"], len(t["x"])) for t in drawn["loss"]["traces"]]
    assert lines == [("A: training loss", "dot", 12), ("A: test loss", "solid", 12),
                     ("B: training loss", "dot", 12), ("B: test loss", "solid", 12)]  # fmt: skip
    assert [t["name"] for t in drawn["accuracy"]["traces"]] == [
        "A: test accuracy",
        "B: test accuracy",
    ]


def test_two_trials_of_one_normalizer_have_two_colors(
    read_cache: ReadCache, studied: Engine
) -> None:
    """The second one has the color of text."""
    pair = study.ids(studied, normalizer="gn", alpha=0.1)[:2]
    first, second = figures(read_cache, *pair)["accuracy"]["traces"]
    assert first["color"] is not None
    assert second["color"] is None


@pytest.mark.parametrize(
    ("choice", "message", "status"),
    [
        ("trial={bn}&trial={bn}", "both are trial {short}: choose two different ones", 400),
        ("trial={bn}&trial={short}", "both are trial {short}: choose two different ones", 400),
        ("trial={bn}&trial=zz", "there is no trial 'zz'", 404),
        ("trial=%00&trial=zz", "there is no trial", 404),
        ("trial={bn}&trial={fixbn}&trial=zz", "3 trials are chosen: choose two", 400),
        ("trial={bn}", "One trial is chosen: give the beginning of another one's id.", 200),
        ("trial={bn}&trial=", "One trial is chosen", 200),
        ("", "A: id begins with", 200),
    ],
)
def test_trials_that_cannot_be_compared_get_one_sentence(
    client: TestClient, bn: str, fixbn: str, choice: str, message: str, status: int
) -> None:
    """The form keeps what was given."""
    names = {"bn": bn, "fixbn": fixbn, "short": bn[:10]}
    answer = client.get(f"/compare?{choice.format(**names)}")
    assert answer.status_code == status
    content = text(answer.text).replace("&#39;", "'")
    assert message.format(**names) in content
    assert "Configurations" not in content
    assert answer.text.count('<input id="trial-') == 2


def test_a_hostile_id_is_escaped(client: TestClient, bn: str) -> None:
    """It is in the form and in the message."""
    page = client.get(f"/compare?trial={bn}&trial={quote(HOSTILE, safe='')}").text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_trials_are_chosen_in_the_list_and_on_a_trial(client: TestClient, bn: str) -> None:
    """The list has a checkbox per trial, with a label."""
    listed = client.get("/trials").text
    assert f'<input type="checkbox" id="c-{bn}" name="trial" value="{bn}">' in listed
    assert '<form action="compare">' in listed
    assert f'<input type="hidden" name="trial" value="{bn}">' in client.get(f"/trials/{bn}").text
