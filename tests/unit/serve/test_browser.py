"""The page in a real browser, headless Chromium, with real workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect
from sqlalchemy.engine import Engine, make_url

from fedsweep.log_handler import Line
from fedsweep.serve import server
from fedsweep.serve.app import plotly_file
from fedsweep.store import attempt_rows
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.transactions import transaction
from tests.acceptance.command import at_once, query, start
from tests.chaos.stores import Postgres
from tests.unit.serve.browsers import NEEDED, TIMEOUT_MS, chromium, enter, live, wait_until
from tests.unit.serve.pages import HOSTILE, TOKEN, claimed, finished, served, served_here
from tests.walk import SECONDS

pytestmark = [NEEDED, pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("walk")]

PLOTLY_S_MAP_STYLE = "Applying inline style violates"
"""The start of an expected console message. plotly.js adds a style for maps, which is refused."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page of a store in a new browser, through the printed address.

    The test fails if the page has a JavaScript error or logs one. With `patient`, logged errors are
    ignored. With `streams`, the event streams are held until the test continues them.
    """
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and PLOTLY_S_MAP_STYLE not in message.text:
            errors.append(message.text)

    with ExitStack() as stack:

        def open_page(
            url: str, path: str = "/", *, patient: bool = False, streams: list[Route] | None = None
        ) -> Page:
            address = stack.enter_context(served_here(url))
            context = stack.enter_context(browser.new_context())
            context.set_default_timeout(TIMEOUT_MS)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            if not patient:
                page.on("console", note)
            enter(page, address, TOKEN)
            if streams is None:
                page.goto(at(page, path))
                live(page)
            else:
                page.route(at(page, "/events?*"), lambda route: streams.append(route))  # noqa: PLW0108  # playwright marks a function, which a built-in one does not allow
                with page.expect_request(at(page, "/events?*")):
                    page.goto(at(page, path))
            return page

        yield open_page
    assert errors == []


def at(page: Page, path: str) -> str:
    """Return the address of a path, below the secret path of the page's server."""
    return re.sub(r"(:\d+/\w+)/.*", lambda match: match[1] + path, page.url)


@contextmanager
def working(url: str) -> Iterator[None]:
    """Run a worker during a test. It must end by itself."""
    work = ("work", "--db", url, "--device", "cpu", "--until-empty")
    worker = start(*work, **{SECONDS: "0.02"})  # a trial lasts for several updates of the page
    try:
        yield
        printed, _ = worker.communicate(timeout=TIMEOUT_MS / 1000)
        assert worker.returncode == 0, printed
    finally:
        worker.kill()
        worker.communicate()


def test_the_printed_address_opens_the_page_and_drops_the_token(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """The page's address has no token. Another browser that opens it needs the token."""
    page = opened(store_url)
    assert TOKEN not in page.url
    expect(page).to_have_title("1 running · fedsweep")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert page.evaluate("document.cookie") == ""
    with page.context.browser.new_context() as context:  # type: ignore[union-attr]  # it has one
        stranger = context.new_page()
        answer = stranger.goto(page.url)
        assert answer is not None
        assert answer.status == 401
        expect(stranger.get_by_role("heading", level=1)).to_have_text("This page needs its token")


def test_a_page_of_another_site_can_open_the_page(
    opened: Callable[..., Page], worked: Engine, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that comes from the file of --open keeps its new cookie."""
    page = opened(store_url)
    inside = page.url
    shown: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", shown.append)
    page.context.clear_cookies()
    with server._shown(f"{inside}?token={TOKEN}"):
        page.goto(shown[0])
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        expect(page).to_have_url(inside)


@pytest.mark.slow
def test_the_page_follows_a_worker_to_the_end(
    opened: Callable[..., Page], tiny: Path, store_url: str
) -> None:
    """The bar, the title and the status show six finished trials without a reload."""
    at_once("plan", str(tiny), "--db", store_url)
    page = opened(store_url)
    expect(page.get_by_role("img", name="trials of tiny: 6 queued")).to_be_visible()
    page.evaluate("window.kept = true")
    with working(store_url):
        expect(page.get_by_role("img", name="trials of tiny: 6 finished")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("6 finished")
        expect(page.locator("#workers tbody tr")).to_have_count(1)
    expect(page).to_have_title("0 running · fedsweep")
    assert page.evaluate("window.kept")


def test_curves_grow_as_rounds_arrive(
    opened: Callable[..., Page], tiny: Path, store_url: str
) -> None:
    """The figure and the table show all rounds while a worker trains."""
    long = ("--set", "seed=0", "--set", "normalizer=bn", "--set", "rounds=60")
    at_once("plan", str(tiny), "--db", store_url, *long)
    ((trial,),) = query(store_url, "SELECT trial_id FROM results")
    page = opened(store_url, f"/trials/{trial}")
    page.evaluate(
        """() => { const chart = document.getElementById("accuracy");
        window.seen = [];
        new MutationObserver(() => seen.push(Number(chart.dataset.points)))
          .observe(chart, { attributeFilter: ["data-points"] }); }"""
    )
    with working(store_url):
        expect(page.locator("#accuracy[data-points='60']")).to_be_visible()
    wait_until(page, "seen.at(-1) === 60")
    seen = page.evaluate("seen")
    assert seen == sorted(seen)
    expect(page.locator("#rounds tr")).to_have_count(60)
    expect(page.locator("#accuracy .scatterlayer path.js-line")).to_have_count(1)
    page.locator("#numbers summary").click()
    expect(page.locator("#rounds tr").first).to_be_visible()


def test_an_update_keeps_the_state_of_the_page(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """It keeps the focus, unfolded details and the scroll position."""
    page = opened(store_url, "/failures")
    page.set_viewport_size({"width": 800, "height": 120})
    summary = page.locator("details summary").last
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open]")).to_have_count(1)
    page.evaluate("scrollTo(0, 40)")  # at once: a wheel's scrolling takes its time
    assert page.evaluate("scrollY") == 40
    change_error(worked)
    expect(page.get_by_text("another")).to_be_attached()
    expect(summary).to_be_focused()
    expect(page.locator("details[open]")).to_have_count(1)
    assert page.evaluate("scrollY") == 40


def change_error(store: Engine) -> None:
    """Change a text that the page of failures shows."""
    with transaction(store) as connection:
        connection.execute(sa.text("UPDATE attempts SET error = 'another' WHERE failure = 'error'"))


def test_the_first_update_keeps_the_state_of_the_page(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """It keeps the focus, typed text, unfolded details and the selection."""
    streams: list[Route] = []
    page = opened(store_url, "/failures", streams=streams)
    page.get_by_label("Trial", exact=True).fill("ab")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#kinds caption'))")
    selected = page.evaluate("String(getSelection())")
    summary = page.locator("details summary").last
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open]")).to_have_count(1)
    change_error(worked)
    streams[0].continue_()
    expect(page.get_by_text("another")).to_be_attached()
    expect(summary).to_be_focused()
    expect(page.locator("details[open]")).to_have_count(1)
    expect(page.get_by_label("Trial", exact=True)).to_have_value("ab")
    assert selected
    assert page.evaluate("String(getSelection())") == selected


def test_a_row_keeps_focus_and_selection_if_a_row_above_is_removed(
    opened: Callable[..., Page], tiny: Path, store: Engine, store_url: str
) -> None:
    """A claimed trial is removed from the top of the queue."""
    at_once("plan", str(tiny), "--db", store_url)
    page = opened(store_url, "/queue")
    rows = page.locator("#next tbody tr")
    count = rows.count()
    assert count > 1
    link = rows.last.get_by_role("link").first
    link.focus()
    page.evaluate(
        "getSelection().selectAllChildren(document.querySelector('#next tr:last-child td'))"
    )
    selected = page.evaluate("String(getSelection())")
    claimed(store, 0)
    expect(rows).to_have_count(count - 1)
    expect(link).to_be_focused()
    assert selected
    assert page.evaluate("String(getSelection())") == selected


def test_a_line_of_the_log_keeps_the_selection_if_lines_are_added(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """The page shows the last 40 lines. The first one is removed, the second one is selected."""
    claim = claimed(worked, 0)
    with transaction(worked) as connection:
        lines = [Line(n, float(n), "info", f"line {n} of it") for n in range(1, 41)]
        attempt_rows.add_logs(connection, claim, lines)
    page = opened(store_url, f"/trials/{claim.trial_id}")
    page.evaluate(
        """() => { const pre = document.querySelector("#log pre");
        const texts = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT);
        let text = texts.nextNode();
        while (!text.data.includes("line 2 of")) text = texts.nextNode();
        const start = text.data.indexOf("line 2 of");
        getSelection().setBaseAndExtent(text, start, text, start + 9); }"""
    )
    with transaction(worked) as connection:
        attempt_rows.add_logs(connection, claim, [Line(41, 41.0, "info", "line 41 of it")])
    expect(page.get_by_text("line 41 of it")).to_be_attached()
    expect(page.get_by_text("line 1 of it")).not_to_be_attached()
    assert page.evaluate("String(getSelection())") == "line 2 of"


TWINS = """() => [...document.querySelectorAll("[data-live], [data-live] *")].flatMap((parent) => {
  const nodes = [...parent.childNodes], names = keys(nodes);
  return names.filter((name, i) => nodes[i].nodeType === 1 && names.indexOf(name) !== i
    && !nodes[i].matches("td, th")
    && (nodes[i].matches("a, details, [tabindex]")
      || nodes[i].querySelector("a, details, [tabindex]")));
})"""
"""Return the keys of usable nodes that an update could confuse with an earlier sibling."""


def test_usable_siblings_have_different_keys(
    opened: Callable[..., Page], hostile: Engine, store_url: str
) -> None:
    """Each node that can have the focus has a unique key among its siblings."""
    finished(hostile)
    page = opened(store_url)
    trial = query(store_url, "SELECT trial_id FROM results WHERE failure = 'diverged'")[0][0]
    for path in ("/", "/queue", "/failures", "/trials", "/sweeps/tiny", f"/trials/{trial}"):
        page.goto(at(page, path))
        live(page)
        assert page.locator("[data-live]").count() > 0
        assert page.evaluate(TWINS) == [], path


def test_a_chosen_filter_is_applied_and_added_to_the_address(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """Going back removes it. Typed text is kept while trials change."""
    page = opened(store_url, "/trials")
    page.get_by_label("normalizer").select_option("fixbn")
    expect(page.locator("#count")).to_have_text("2 trials")
    expect(page).to_have_url(re.compile(r"/trials\?normalizer=fixbn$"))
    live(page)  # before its script runs, a form sends its empty fields too
    page.get_by_label("id begins with").fill("zz")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No trial matches")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/trials\?id=zz&normalizer=fixbn$"))
    page.go_back()
    page.go_back()
    expect(page.locator("#count")).to_have_text("6 trials")
    live(page)
    page.get_by_label("id begins with").fill("ab")
    claimed(worked, 0)
    expect(page.locator("#list").get_by_text("running")).to_have_count(2)
    expect(page.get_by_label("id begins with")).to_have_value("ab")


def test_filters_work_without_a_script(browser: Browser, worked: Engine, store_url: str) -> None:
    """A button applies them."""
    with (
        served_here(store_url) as address,
        browser.new_context(java_script_enabled=False) as context,
    ):
        page = context.new_page()
        enter(page, address, TOKEN)
        page.goto(at(page, "/trials"))
        page.get_by_label("state", exact=True).select_option("queued")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#count")).to_have_text("2 trials")


def test_the_page_can_be_used_by_keyboard(
    opened: Callable[..., Page], worked: Engine, store_url: str
) -> None:
    """`/` goes to the filter, Tab to each link, and Ctrl-Enter runs a statement."""
    page = opened(store_url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for name in ("fedsweep", "Overview", "Queue", "Failures", "Trials"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    wait_until(page, f"{outline} === 'solid'")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/trials$"))
    live(page)
    page.keyboard.press("/")
    expect(page.get_by_label("id begins with")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("id begins with")).to_have_value("/")
    page.goto(page.url.replace("/trials", "/sql"))
    live(page)
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("SELECT count(*) AS trials FROM results")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer td")).to_have_text("6")


def test_hostile_text_is_not_executed(
    opened: Callable[..., Page], hostile: Engine, store_url: str
) -> None:
    """It is in names, plans, errors, tracebacks and logs, on load and on update."""
    finished(hostile)
    trial = query(store_url, "SELECT trial_id FROM results WHERE failure = 'diverged'")[0][0]
    page = opened(store_url)
    links = page.locator("#sweeps h3 a")
    expect(links.last).to_have_text(HOSTILE)
    links.last.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Sweep {HOSTILE}")
    page.locator("#arms .main-svg").first.wait_for()
    for path in ("/failures", f"/trials/{trial}", "/sql?q=SELECT+name+FROM+sweeps"):
        page.goto(at(page, path))
        live(page)
        assert page.title() != "broken"
        assert page.locator("main img, main script").count() == 0
    page.goto(at(page, "/failures"))
    live(page)
    with transaction(hostile) as connection:
        text = {"error": f"again {HOSTILE}"}
        connection.execute(sa.text("UPDATE attempts SET error = :error WHERE error = 'disk'"), text)
    expect(page.get_by_text("again <script>")).to_be_attached()
    assert page.title() != "broken"
    assert page.locator("main img, main script").count() == 0


@pytest.mark.slow
def test_a_page_survives_a_file_that_is_moved_away_and_back(
    opened: Callable[..., Page], tiny: Path, sqlite_url: str
) -> None:
    """It shows a message and the older data, and later updates itself."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    page = opened(sqlite_url, patient=True)
    page.evaluate("window.kept = true")
    file = sqlite_file(make_url(sqlite_url))
    assert file is not None
    away = file.rename(file.with_name("away.db"))
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.get_by_role("img", name="trials of tiny: 6 queued")).to_be_visible()
    away.rename(file)
    expect(page.get_by_role("alert")).to_be_hidden()
    at_once("sweep", "pause", "tiny", "--db", sqlite_url)
    expect(page.get_by_text("paused")).to_be_visible()
    assert page.evaluate("window.kept")


def test_a_page_is_not_reloaded_while_the_user_types(
    opened: Callable[..., Page], tiny: Path, sqlite_url: str
) -> None:
    """A page opened during an outage is reloaded when the field is empty and has lost the focus."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    page = opened(sqlite_url, patient=True)
    file = sqlite_file(make_url(sqlite_url))
    assert file is not None
    away = file.rename(file.with_name("away.db"))
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Not available")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    field = page.get_by_label("Trial", exact=True)
    field.fill("ab")
    page.evaluate("window.kept = true")
    away.rename(file)
    expect(page.get_by_role("status")).to_have_text("nothing runs yet")
    assert page.evaluate("window.kept")
    expect(field).to_have_value("ab")
    expect(field).to_be_focused()
    field.fill("")
    field.blur()
    expect(page.get_by_role("img", name="trials of tiny: 6 queued")).to_be_visible()


def test_a_page_survives_a_restart_of_the_database(opened: Callable[..., Page], tiny: Path) -> None:
    """A page that is opened during the outage appears when the database is back."""
    server = Postgres()
    try:
        at_once("plan", str(tiny), "--db", server.url)
        page = opened(server.url, patient=True)
        page.evaluate("window.kept = true")
        server.stop("fast")
        expect(page.locator("#away")).to_contain_text("does not answer")
        late = page.context.new_page()
        answer = late.goto(page.url)
        assert answer is not None
        assert answer.status == 503
        server.mend()
        expect(page.locator("#away")).to_be_hidden()
        at_once("sweep", "pause", "tiny", "--db", server.url)
        expect(page.get_by_text("paused")).to_be_visible()
        assert page.evaluate("window.kept")
        expect(late.get_by_role("img", name="trials of tiny: 6 queued")).to_be_visible()
    finally:
        server.close()


def test_the_end_of_the_server_is_shown(browser: Browser, sqlite_url: str, tiny: Path) -> None:
    """The page keeps its content."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    with browser.new_context() as context:
        page = context.new_page()
        with served(sqlite_url, "--token", TOKEN) as (address, token, _):
            enter(page, address, token)
            live(page)
        expect(page.locator("#away")).to_contain_text("fedsweep serve does not answer")
        expect(page.get_by_role("img", name="trials of tiny: 6 queued")).to_be_visible()


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 400])
def test_nothing_is_wider_than_the_window(
    opened: Callable[..., Page], hostile: Engine, store_url: str, width: int
) -> None:
    """Wide tables have their own scrollbar."""
    page = opened(store_url)
    page.set_viewport_size({"width": width, "height": 800})
    trial = query(store_url, "SELECT trial_id FROM results WHERE state = 'finished'")[0][0]
    for path in ("/", "/queue", "/failures", "/trials", "/sql", "/sweeps/tiny", f"/trials/{trial}"):
        page.goto(at(page, path))
        live(page)
        if page.locator(".chart").count():
            page.locator(".chart .main-svg").first.wait_for()
        wait_until(page, f"document.documentElement.scrollWidth <= {width}")


LEGEND = """() => {
  const box = (element) => element.getBoundingClientRect();
  const chart = box(document.querySelector("#arms .main-svg"));
  const names = [...document.querySelectorAll("#arms .legendtext")].map(box);
  return [names.length, names.every((name) => chart.left <= name.left && name.right <= chart.right
    && chart.top <= name.top && name.bottom <= chart.bottom),
    box(document.querySelector("#arms .legend .scrollbar")).width,
    box(document.querySelector("#arms .nsewdrag")).height];
}"""
"""Return a legend's names, if all lie in the chart, its scrollbar, and the panel's height."""

SHOW = """(names) => document.dispatchEvent(new CustomEvent("figure", { detail: {
  id: "arms", x: "round", y: "",
  traces: names.map((name, i) => ({ name, n: 3, kind: "curve", x: [1, 2, 3],
    y: [i, i + 1, i + 2], std: [0.1, 0.1, 0.1] })) } }))"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arms", "name", "width"),
    [
        (2, "FIXBN", 400),
        (40, "FIXBN", 1100),
        (12, "SOME_PACKAGE:FILTER_RESPONSE_NORMALIZATION_WITH_A_SHIFT", 400),
    ],
)
def test_every_name_of_a_legend_is_inside_its_chart(
    browser: Browser, arms: int, name: str, width: int
) -> None:
    """There is no scrollbar, and the plot keeps its height, also in a narrow window."""
    script = (Path(server.__file__).parent / "static" / "curves.js").read_text()
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.set_content("<style>#arms { height: 27rem }</style><div id=arms></div>")
    page.add_script_tag(path=plotly_file())
    page.add_script_tag(content=script)
    page.evaluate(SHOW, [f"{name} T⋆={i}" for i in range(arms)])
    page.set_viewport_size({"width": width, "height": 800})
    wait_until(page, f"document.querySelector('#arms .main-svg').clientWidth <= {width}")
    wait_until(
        page,
        f"""() => {{ const [names, inside, scrollbar, height] = ({LEGEND})();
        return names === {arms} && inside && scrollbar === 0 && height > 300; }}""",
    )
    page.close()
