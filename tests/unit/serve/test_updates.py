"""Updates of a page in a real browser, at each moment of a user's action."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from fedsweep.measures import SHOWN_BY_ROUND
from fedsweep.serve import server
from fedsweep.serve.app import plotly_file
from fedsweep.serve.screen import measures_json
from tests.unit.serve.browsers import NEEDED, TIMEOUT_MS, chromium, wait_until

pytestmark = NEEDED

STATIC = Path(server.__file__).parent / "static"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """A tab of the browser. Its process starts once for all tests."""
    tab = browser.new_page()
    tab.set_default_timeout(TIMEOUT_MS)
    yield tab
    tab.close()


@pytest.fixture
def page(tab: Page) -> Page:
    """A new page with an empty part `part` and the script that updates it."""
    tab.goto("about:blank")
    tab.set_content("<p id=link></p><p id=away></p><main><section id=part>\n</section></main>")
    tab.add_script_tag(path=STATIC / "live.js")
    return tab


def item(key: str, text: str = "") -> str:
    """Return an entry like those of the page of failures."""
    return (
        f'<article data-key="{key}">\n<h3>{key}{text}</h3>\n<p>It is <b>{key}</b>, as before</p>\n'
        f'<details data-key="traceback"><summary>Traceback</summary><pre>{key}</pre></details>\n'
        "</article>\n"
    )


UPDATE = """([html, key]) => {
  const part = document.getElementById("part");
  const items = () => new Map([...part.children].map((node) => [node.dataset.key, node]));
  const before = items(), used = before.get(key);
  if (used) {
    used.querySelector("details").open = true;
    used.querySelector("summary").focus();
    getSelection().selectAllChildren(used.querySelector("p"));
  }
  const unfolded = [...before].filter(([, node]) => node.querySelector("details").open);
  replace("part", html);
  const after = items();
  return {
    html: part.innerHTML.replaceAll(' open=""', ""),
    same: [...after].every(([key, node]) => !before.has(key) || before.get(key) === node),
    open: unfolded.every(([key, node]) => !after.has(key) || node.querySelector("details").open),
    focus: !used || document.activeElement === used.querySelector("summary"),
    selection: !used || String(getSelection()) === used.querySelector("p").innerText,
  };
}"""
"""Use an entry, update the part, and return the state that was kept."""


@pytest.mark.parametrize("moves", ["moveBefore", "insertBefore"])
def test_any_update_keeps_the_entry_in_use(page: Page, moves: str) -> None:
    """Entries are added, removed, changed and moved, with and without moveBefore."""
    if moves == "insertBefore":
        page.evaluate("delete Element.prototype.moveBefore")
    assert page.evaluate("'moveBefore' in Element.prototype") == (moves == "moveBefore")
    draw = random.Random(0)
    keys: Sequence[str] = ()
    for step in range(150):
        new = draw.sample("abcdefgh", draw.randint(0, 8))
        if step % 2:  # without a change of places
            new = sorted(new, key=lambda key: (keys.index(key) if key in keys else -1, key))
        both = [key for key in keys if key in new]
        used = draw.choice(both) if both else None
        html = "".join(item(key, draw.choice(["", " changed"])) for key in new)
        survived = page.evaluate(UPDATE, [html, used])
        assert survived == {
            "html": html,
            "same": True,
            "open": True,
            "focus": True,
            "selection": True,
        }, (keys, new, used)
        keys = new


KEYS = ["focusin", "keydown", "click", "open", "toggle", "keyup"]
INSTANTS = {
    "Enter": [*KEYS, "keypress"],
    "Space": KEYS,
    "mouse": ["pointerdown", "mousedown", "focusin", "mouseup", "click", "open", "toggle"],
}
"""Events during which an update arrives, for each way to unfold. `open` precedes `toggle`."""

AT = """([instant, html]) => {
  window.updates = 0;
  const update = () => { replace("part", html); updates++; };
  if (instant === "open") {
    const observer = new MutationObserver(() => { observer.disconnect(); update(); });
    observer.observe(document.body, { subtree: true, attributeFilter: ["open"] });
  } else document.addEventListener(instant, update, { once: true, capture: true });
}"""
"""Make an update arrive during the next event of a name."""


@pytest.mark.parametrize(
    ("way", "instant"), [(way, instant) for way, names in INSTANTS.items() for instant in names]
)
def test_an_update_at_any_event_does_not_interrupt_unfolding(
    page: Page, way: str, instant: str
) -> None:
    """Entries around the unfolded one are removed, added and moved. It stays in place."""
    used = item("used")
    page.evaluate("(html) => replace('part', html)", item("a") + item("b") + used + item("c"))
    page.evaluate(AT, [instant, item("new") + item("c") + used + item("b")])
    page.evaluate("window.used = document.querySelector('[data-key=used] summary')")
    summary = page.locator("[data-key=used] summary")
    if way == "mouse":
        summary.click()
    else:
        summary.focus()
        page.keyboard.press(way)
    wait_until(page, "updates === 1")
    expect(page.locator("details[open]")).to_have_count(1)
    expect(summary).to_be_focused()
    assert page.evaluate("used === document.activeElement && used.parentNode.open")


def test_a_changed_text_keeps_the_selection_around_the_change(page: Page) -> None:
    """Both ends of the selection are in the changed text."""
    page.evaluate("replace('part', '<p>lease 34 s, 1.2 GB 🜁 taken</p>')")
    page.evaluate(
        """() => { const text = document.querySelector("#part p").firstChild;
        getSelection().setBaseAndExtent(text, 2, text, text.length - 2); }"""
    )
    page.evaluate("replace('part', '<p>lease 9 s, 11 GB 🜂 taken</p>')")
    assert page.locator("#part").inner_text() == "lease 9 s, 11 GB 🜂 taken"
    assert page.evaluate("String(getSelection())") == "ase 9 s, 11 GB 🜂 tak"


MEASURES = escape(measures_json(SHOWN_BY_ROUND))
CHARTS = (
    "<div id=accuracy></div><div id=loss></div>"
    f'<table><tbody id=rounds data-measures="{MEASURES}"></tbody></table>'
)
ROUNDS = """([last, loss]) => document.dispatchEvent(new CustomEvent("rounds", { detail: {
  replace: true, rounds: Array.from({ length: last }, (_, i) => [i + 1, 0.5, null, loss, 1, null, 2,
    "explore", i === 0]) } }))"""


def test_rounds_that_are_sent_again_keep_their_rows(browser: Browser) -> None:
    """A page that reconnects gets all rounds, and keeps its rows and the selection."""
    page = browser.new_page()
    page.set_content(CHARTS)
    page.add_script_tag(path=plotly_file())
    page.add_script_tag(path=STATIC / "curves.js")
    page.evaluate(ROUNDS, [3, 1.25])
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#rounds tr'))")
    page.evaluate(ROUNDS, [4, 1.25])
    rows = page.locator("#rounds tr")
    assert rows.all_inner_texts() == [
        f"{n}\t50.00\t–\t1.25\t1\t–\t2\texplore{' (shared)' if n == 1 else ''}" for n in range(1, 5)
    ]
    assert page.evaluate("String(getSelection())").startswith("1\t50.00\t")
    page.evaluate(ROUNDS, [2, 0.5])
    assert [text.split("\t")[3] for text in rows.all_inner_texts()] == ["0.5", "0.5"]
    page.close()


SHOW = """(names) => document.dispatchEvent(new CustomEvent("figure", { detail: {
  id: "arms", x: "round", y: "",
  traces: names.map((name, i) => ({ name, n: 3, kind: "curve", x: [1, 2, 3],
    y: [i, i + 1, i + 2], std: [0.1, 0.1, 0.1] })) } }))"""


@pytest.mark.slow
def test_redrawn_curves_do_not_scroll_the_page(browser: Browser) -> None:
    """The browser of the test has no scroll anchoring."""
    page = browser.new_page(viewport={"width": 1100, "height": 500})
    page.set_content(
        "<style>html { overflow-anchor: none } #arms { height: 27rem }</style>"
        "<div id=arms></div><p style='height: 500px'>Below"
    )
    page.add_script_tag(path=plotly_file())
    page.add_script_tag(path=STATIC / "curves.js")
    names = [f"FIXBN T⋆={i}" for i in range(60)]
    page.evaluate(SHOW, names)
    page.locator("#arms .main-svg").first.wait_for()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    before = page.evaluate("[scrollY, document.documentElement.scrollHeight]")
    assert before[0] > 500
    page.evaluate(SHOW, names)
    assert page.evaluate("[scrollY, document.documentElement.scrollHeight]") == before
    page.close()
