"""What each screen says."""

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
from fedsweep.plan import read_plan
from fedsweep.states import Hold
from fedsweep.store import arms, planning, stops
from fedsweep.store.transactions import transaction
from tests.acceptance.command import query
from tests.builders import REPOSITORY
from tests.search.searches import PLAN as SEARCHED
from tests.serve.pages import HOSTILE, paths, text

pytestmark = pytest.mark.quick_on("sqlite")


def get(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


def some(url: str, where: str) -> str:
    return str(query(url, f"SELECT trial_id FROM results WHERE {where}")[0][0])


def test_the_overview_says_where_a_sweep_stands(client: TestClient, worked: Engine) -> None:
    """Six trials in one bar, with numbers; three rounds of one, two of another."""
    page = get(client, "/")
    assert "<title>1 running · fedsweep</title>" in page
    assert 'aria-label="trials of tiny: 1 finished, 1 running, 2 failed, 2 queued"' in page
    assert "trials done 3 of 6" in text(page)
    assert "rounds done 5 of 12" in text(page)


def test_the_overview_says_who_trains_what(client: TestClient, worked: Engine) -> None:
    """Host, device, trial, round, lease, and how many it finished."""
    said = text(get(client, "/"))
    assert "host-1-0-abc host cpu training lease 1" in said
    assert " 2/3 gn α=0.5 E=2 momentum=reset seed=1" in said


def test_the_overview_says_which_machine_cannot_train_and_why(
    client: TestClient, worked: Engine
) -> None:
    """A worker that stopped, and one that goes on with other trials; text of theirs is no HTML."""
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


def test_a_held_sweep_says_why(client: TestClient, worked: Engine) -> None:
    """In the words of `status`."""
    with transaction(worked) as connection:
        queue.hold_sweep(connection, "tiny", Hold.PAUSE)
    assert "tiny paused" in text(get(client, "/"))
    assert "paused 2" in text(get(client, "/queue"))


def test_the_queue_says_what_is_next_and_what_backs_off(client: TestClient, worked: Engine) -> None:
    """With why it does."""
    said = text(get(client, "/queue"))
    assert "back off 1" in said
    assert "error disk" in said


def test_failures_stand_by_kind_with_their_tracebacks(client: TestClient, worked: Engine) -> None:
    """Counted: trials for good, and attempts; each with its error, and a link to its trial."""
    page = get(client, "/failures")
    said = text(page)
    assert "diverged 2 1" in said
    assert "error 0 1" in said
    assert "Traceback: disk" in said
    assert "Traceback: disk" not in get(client, "/failures?kind=diverged")
    assert re.search(r'href="trials/[0-9a-f]{16,}"', page)


def test_trials_are_filtered_by_what_the_address_says(client: TestClient, worked: Engine) -> None:
    """By each field, and by several at once."""
    for question, count in {
        "": 6, "?state=queued": 2, "?normalizer=fixbn": 2, "?normalizer=fixbn&seed=1": 1,
        "?sweep=tiny": 6, "?sweep=other": 0, "?alpha=0.5&local_steps=2&momentum=reset": 6,
        "?alpha=0.25": 0, "?failure=diverged": 2, "?id=zz": 0, "?state=": 6, "?unknown=1": 6,
    }.items():  # fmt: skip
        noun = "trial" if count == 1 else "trials"
        assert f"{count} {noun}" in text(get(client, f"/trials{question}")), question


def test_trials_are_sorted_by_a_heading_and_back(
    client: TestClient, worked: Engine, store_url: str
) -> None:
    """What has no number comes last, either way."""
    for down, direction in (("", "ascending"), ("&down=1", "descending")):
        page = get(client, f"/trials?sort=test_accuracy{down}")
        first = re.findall(r'<th scope="row"><a class="id" href="trials/(\w+)"', page)[0]
        assert first == some(store_url, "state = 'finished'")
        assert f'aria-sort="{direction}"' in page


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("alpha=x", "alpha = 'x' is not a number"),
        ("seed=1.5", "seed = '1.5' is not a number"),
        ("seed=99999999999999999999", "too large"),
        ("page=x", "is not a number"),
        ("sort=password", "cannot be sorted by 'password'"),
    ],
)
def test_a_filter_that_cannot_be_is_one_sentence(
    client: TestClient, worked: Engine, question: str, said: str
) -> None:
    """And no error of the server."""
    assert said in text(get(client, f"/trials?{question}", 400)).replace("&#39;", "'")


def test_a_page_behind_the_last_leads_to_the_first(client: TestClient, worked: Engine) -> None:
    """Trials may have gone to another state meanwhile."""
    assert "There is no page 7" in text(get(client, "/trials?page=7"))


def test_a_trial_tells_its_configuration_attempts_rounds_and_log(
    client: TestClient, worked: Engine, store_url: str
) -> None:
    """Numbers in a table too, for who cannot see the curves."""
    done = some(store_url, "state = 'finished'")
    page = get(client, f"/trials/{done[:12]}")
    said = text(page)
    assert "round 3 of 3" in said
    assert "1. finished cpu of host-1-0-abc on host" in said
    assert "1 25.00 25.00 1.25 0.75 0.5 0.125 explore" in said
    assert "ended" in said
    assert "local_steps 2" in said
    assert "static/plotly.min.js" in page


def test_plotly_is_loaded_only_where_there_are_curves(client: TestClient, worked: Engine) -> None:
    """It is five megabytes."""
    for path in ("/", "/queue", "/failures", "/trials", "/sql"):
        assert "plotly" not in get(client, path)
    assert "plotly.js" in client.get("/static/plotly.min.js").text[:200]


def test_a_sweep_has_the_report_s_table_its_curves_and_its_plan(
    client: TestClient, worked: Engine
) -> None:
    """The same numbers as `fedsweep report`."""
    page = get(client, "/sweeps/tiny")
    said = text(page)
    assert "BN" in said
    assert "75.00 (1 diverged)" in said
    assert "normalizer = [&#34;bn&#34;, &#34;gn&#34;]" in page


def searching(store: Engine, folder: Path) -> None:
    (folder / "searched.toml").write_text(SEARCHED)
    spec = read_plan(folder / "searched.toml")
    with transaction(store) as connection:
        planning.add_sweep(connection, spec)
        arms.add_arms(connection, spec, 0)


def test_a_searched_sweep_says_what_was_found(
    client: TestClient, store: Engine, tmp_path: Path
) -> None:
    """As `search show` does."""
    searching(store, tmp_path)
    assert "The best freeze round" in text(get(client, "/sweeps/searched"))
    assert "searching 1 arm" in text(get(client, "/"))


def test_sql_is_answered_in_a_table(client: TestClient, worked: Engine) -> None:
    """Columns, rows, NULL; the statement stays in the box."""
    question = quote("SELECT state, count(*) AS n, NULL AS x FROM results GROUP BY 1 ORDER BY 1")
    said = text(get(client, f"/sql?q={question}"))
    assert "state n x failed 2 NULL finished 1 NULL queued 2 NULL running 1 NULL" in said


def test_each_ready_statement_is_answered(client: TestClient, worked: Engine) -> None:
    """On both databases."""
    from fedsweep.serve.sql import QUERIES

    for statement in QUERIES.values():
        get(client, f"/sql?q={quote(statement)}")


def test_what_is_not_there_is_said_in_a_sentence(client: TestClient, worked: Engine) -> None:
    """To a browser as a page, to a script as a line."""
    assert "There is no such page." in get(client, "/nowhere", 404)
    assert "there is no trial" in text(get(client, "/trials/zzzz", 404))
    assert "there are tiny" in text(get(client, "/sweeps/other", 404))
    plain = client.get("/sweeps/other", headers={"accept": "text/plain"})
    assert plain.text == "there is no sweep 'other': there are tiny\n"


def test_an_empty_store_has_every_page(client: TestClient, store: Engine) -> None:
    """Before the first plan."""
    assert "Nothing is planned yet" in get(client, "/")
    for path in ("/queue", "/failures", "/trials", "/sql", "/metrics"):
        get(client, path)


def test_hostile_words_are_words(client: TestClient, hostile: Engine, store_url: str) -> None:
    """Names, errors, tracebacks, logs, plans, statements, values, addresses."""
    for path in paths(store_url):
        page = client.get(path).text
        assert "<script>" not in page, path
        assert "<img" not in page, path
        assert 'onerror="' not in page, path


class Outline(HTMLParser):
    """What makes a page accessible, as far as its text tells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_every_page_can_be_read_by_ear(client: TestClient, hostile: Engine, store_url: str) -> None:
    """A language, one first heading, landmarks, labels, captions, scopes, ids that are unique."""
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
    """WCAG 2.2's contrast ratio of two colors, #rrggbb."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_colors_differ_enough(scheme: int) -> None:
    """Text by 4.5, pieces of a bar from the page and what frames a field by 3, light and dark."""
    style = (REPOSITORY / "fedsweep" / "serve" / "static" / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for ground in ("ground", "raised"):
        for ink in ("ink", "dim", "link", "wrong"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    assert contrast(colors["wrong"], colors["wrong-ground"]) >= 4.5
    for state in ("finished", "running", "failed", "cancelled"):
        assert contrast(colors[state], colors["ground"]) >= 3, state
