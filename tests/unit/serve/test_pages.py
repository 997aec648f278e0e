"""The content of each screen."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep import queue
from fedsweep.plans import read_plan
from fedsweep.states import Hold
from fedsweep.store import arms, planning, stops
from fedsweep.store.transactions import transaction
from tests.acceptance.command import query
from tests.builders import REPOSITORY
from tests.unit.search.searches import PLAN as SEARCHED
from tests.unit.serve.pages import HOSTILE, paths, text

pytestmark = pytest.mark.quick_on("sqlite")


def get(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


def first_trial(url: str, where: str) -> str:
    return str(query(url, f"SELECT trial_id FROM results WHERE {where}")[0][0])


def test_the_overview_shows_the_progress_of_a_sweep(client: TestClient, worked: Engine) -> None:
    """Six trials are in one bar. Three rounds of one trial and two of another are stored."""
    page = get(client, "/")
    assert "<title>1 running · fedsweep</title>" in page
    assert 'aria-label="trials of tiny: 1 finished, 1 running, 2 failed, 2 queued"' in page
    assert "trials done 3 of 6" in text(page)
    assert "rounds done 5 of 12" in text(page)


def test_the_overview_shows_the_workers_and_their_trials(
    client: TestClient, worked: Engine
) -> None:
    """It shows host, device, trial, round and lease."""
    content = text(get(client, "/"))
    assert "host-1-0-abc host cpu training lease 1" in content
    assert " 2/3 gn α=0.5 E=2 momentum=reset seed=1" in content


def test_the_overview_shows_machines_that_cannot_train_and_the_reasons(
    client: TestClient, worked: Engine
) -> None:
    """One worker has stopped, one passes over trials. Their reasons are escaped."""
    assert "Machines that cannot train" not in get(client, "/")
    about = {"pid": 1, "reason": HOSTILE}
    with transaction(worked) as connection:
        stops.note(connection, host="node7", device="cuda:0", lack=None, **about)
        stops.note(connection, host="node8", device="cpu", lack=(("model", "cnn"),), **about)
    page = get(client, "/")
    assert "node7 cuda:0 stopped" in text(page)
    assert "node8 cpu passes over trials" in text(page)
    assert "&lt;script&gt;" in page
    assert HOSTILE not in page


def test_a_held_sweep_shows_the_reason(client: TestClient, worked: Engine) -> None:
    """The words are those of `status`."""
    with transaction(worked) as connection:
        queue.hold_sweep(connection, "tiny", Hold.PAUSE)
    assert "tiny paused" in text(get(client, "/"))
    assert "paused 2" in text(get(client, "/queue"))


def test_the_queue_shows_trials_that_back_off(client: TestClient, worked: Engine) -> None:
    """It shows the last failure of each."""
    content = text(get(client, "/queue"))
    assert "back off 1" in content
    assert "error disk" in content


def test_failures_are_shown_by_kind_with_their_tracebacks(
    client: TestClient, worked: Engine
) -> None:
    """Failed trials and attempts are counted. Each failure links to its trial."""
    page = get(client, "/failures")
    content = text(page)
    assert "diverged 2 1" in content
    assert "error 0 1" in content
    assert "Traceback: disk" in content
    assert "Traceback: disk" not in get(client, "/failures?kind=diverged")
    assert re.search(r'href="trials/[0-9a-f]{16,}"', page)


def test_the_address_filters_trials(client: TestClient, worked: Engine) -> None:
    """It may name one field or several."""
    for question, count in {
        "": 6, "?state=queued": 2, "?normalizer=fixbn": 2, "?normalizer=fixbn&seed=1": 1,
        "?sweep=tiny": 6, "?sweep=other": 0, "?alpha=0.5&local_steps=2&momentum=reset": 6,
        "?alpha=0.25": 0, "?failure=diverged": 2, "?id=zz": 0, "?state=": 6, "?unknown=1": 6,
    }.items():  # fmt: skip
        noun = "trial" if count == 1 else "trials"
        assert f"{count} {noun}" in text(get(client, f"/trials{question}")), question


def test_trials_are_sorted_in_both_directions(
    client: TestClient, worked: Engine, store_url: str
) -> None:
    """Trials without a number come last in both."""
    for down, direction in (("", "ascending"), ("&down=1", "descending")):
        page = get(client, f"/trials?sort=test_accuracy{down}")
        first = re.findall(r'<th scope="row"><a class="id" href="trials/(\w+)"', page)[0]
        assert first == first_trial(store_url, "state = 'finished'")
        assert f'aria-sort="{direction}"' in page


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("alpha=x", "alpha = 'x' is not a number"),
        ("seed=1.5", "seed = '1.5' is not a number"),
        ("seed=99999999999999999999", "too large"),
        ("page=x", "is not a number"),
        ("sort=password", "cannot be sorted by 'password'"),
    ],
)
def test_an_invalid_filter_is_one_sentence(
    client: TestClient, worked: Engine, question: str, message: str
) -> None:
    """The server has no internal error."""
    assert message in text(get(client, f"/trials?{question}", 400)).replace("&#39;", "'")


def test_a_page_after_the_last_links_to_the_first(client: TestClient, worked: Engine) -> None:
    """The list may have become shorter since the link was shown."""
    assert "There is no page 7" in text(get(client, "/trials?page=7"))


def test_a_trial_shows_its_configuration_attempts_rounds_and_log(
    client: TestClient, worked: Engine, store_url: str
) -> None:
    """A table has the numbers for people who cannot see the curves."""
    done = first_trial(store_url, "state = 'finished'")
    page = get(client, f"/trials/{done[:12]}")
    content = text(page)
    assert "round 3 of 3" in content
    assert "1. finished cpu of host-1-0-abc on host" in content
    assert "1 25.00 25.00 1.25 0.75 0.5 0.125 explore" in content
    assert "ended" in content
    assert "local_steps 2" in content
    assert "static/plotly.min.js" in page


def test_plotly_is_loaded_only_by_pages_with_curves(client: TestClient, worked: Engine) -> None:
    """It has five megabytes."""
    for path in ("/", "/queue", "/failures", "/trials", "/sql"):
        assert "plotly" not in get(client, path)
    assert "plotly.js" in client.get("/static/plotly.min.js").text[:200]


def test_a_sweep_shows_the_table_of_the_report_and_its_plan(
    client: TestClient, worked: Engine
) -> None:
    """The numbers are those of `fedsweep report`."""
    page = get(client, "/sweeps/tiny")
    content = text(page)
    assert "BN" in content
    assert "75.00 (1 diverged)" in content
    assert "normalizer = [&#34;bn&#34;, &#34;gn&#34;]" in page


def searching(store: Engine, folder: Path) -> None:
    (folder / "searched.toml").write_text(SEARCHED)
    spec = read_plan(folder / "searched.toml")
    with transaction(store) as connection:
        planning.add_sweep(connection, spec)
        arms.add_arms(connection, spec, 0)


def test_a_sweep_with_a_search_shows_its_results(
    client: TestClient, store: Engine, tmp_path: Path
) -> None:
    """The table is that of `search show`."""
    searching(store, tmp_path)
    assert "The best freeze round" in text(get(client, "/sweeps/searched"))
    assert "searching 1 arm" in text(get(client, "/"))


def test_a_statement_is_answered_in_a_table(client: TestClient, worked: Engine) -> None:
    """The table has the columns and rows, and shows NULL."""
    question = quote("SELECT state, count(*) AS n, NULL AS x FROM results GROUP BY 1 ORDER BY 1")
    content = text(get(client, f"/sql?q={question}"))
    assert "state n x failed 2 NULL finished 1 NULL queued 2 NULL running 1 NULL" in content


def test_each_example_statement_is_answered(client: TestClient, worked: Engine) -> None:
    """Each is valid on both databases."""
    from fedsweep.serve.sql import QUERIES

    for statement in QUERIES.values():
        get(client, f"/sql?q={quote(statement)}")


def test_an_unknown_address_gets_one_sentence(client: TestClient, worked: Engine) -> None:
    """A browser gets a page, a script gets one line."""
    assert "There is no such page." in get(client, "/nowhere", 404)
    assert "there is no trial" in text(get(client, "/trials/zzzz", 404))
    assert "there are tiny" in text(get(client, "/sweeps/other", 404))
    plain = client.get("/sweeps/other", headers={"accept": "text/plain"})
    assert plain.text == "there is no sweep 'other': there are tiny\n"


def test_an_empty_store_has_every_page(client: TestClient, store: Engine) -> None:
    """No plan has been added yet."""
    assert "Nothing is planned yet" in get(client, "/")
    for path in ("/queue", "/failures", "/trials", "/sql", "/metrics"):
        get(client, path)


def test_hostile_text_is_escaped(client: TestClient, hostile: Engine, store_url: str) -> None:
    """It is in names, errors, tracebacks, logs, plans, statements, values and addresses."""
    for path in paths(store_url):
        page = client.get(path).text
        assert "<script>" not in page, path
        assert "<img" not in page, path
        assert 'onerror="' not in page, path


class Outline(HTMLParser):
    """The tags of a page, to check its accessibility."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_every_page_suits_screen_readers(
    client: TestClient, hostile: Engine, store_url: str
) -> None:
    """Each has a language, one h1, landmarks, labels, captions, scopes and unique ids."""
    for path in paths(store_url):
        outline = Outline(client.get(path).text)
        assert outline.all("html")[0]["lang"] == "en"
        for tag in ("h1", "main", "header", "footer"):
            assert len(outline.all(tag)) == 1, (path, tag)
        assert any(str(a.get("href")).endswith("#main") for a in outline.all("a"))
        labeled = {a["for"] for a in outline.all("label")}
        fields = [
            a for a in outline.all("input", "select", "textarea") if a.get("type") != "hidden"
        ]
        assert fields
        assert all(a.get("id") in labeled for a in fields), path
        assert len(outline.all("caption")) == len(outline.all("table")), path
        assert all(a.get("scope") in ("col", "row") for a in outline.all("th")), path
        ids = [a["id"] for _, a in outline.tags if "id" in a]
        assert len(ids) == len(set(ids)), path
        assert all(a.get("aria-label") for a in outline.all("svg")), path
        assert not any("style" in a for _, a in outline.tags), path


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors, #rrggbb, as defined by WCAG 2.2."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_colors_have_enough_contrast(scheme: int) -> None:
    """The ratio is 4.5 for text and 3 for the segments of a bar, light and dark."""
    style = (REPOSITORY / "fedsweep" / "serve" / "static" / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for ground in ("ground", "raised"):
        for ink in ("ink", "dim", "link", "wrong"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    assert contrast(colors["wrong"], colors["wrong-ground"]) >= 4.5
    for state in ("finished", "running", "failed", "cancelled"):
        assert contrast(colors[state], colors["ground"]) >= 3, state
