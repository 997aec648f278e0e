"""Choosing, zooming, smoothing and comparing in a real browser, and accessibility by axe-core."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.engine import Engine

from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import transaction
from tests.unit.serve import study
from tests.unit.serve.browsers import NEEDED, TIMEOUT_MS, chromium, enter, live, wait_until
from tests.unit.serve.pages import TOKEN, served_here

pytestmark = NEEDED


@pytest.fixture(scope="module")
def store(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A store with the study. One trial of it has failed."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.db").write_bytes(sqlite_template.read_bytes())
    engine = open_store(f"sqlite:///{folder / 'study.db'}")
    study.fill(engine, folder)
    with transaction(engine) as connection:
        failed = sa.update(trials).where(trials.c.id == 1)
        values = {"failure": "diverged", "error": "the loss is inf"}
        connection.execute(failed.values(state="failed", **values))
        attempt = {"trial": 1, "fence": 1, "worker": "w", "host": "h", "device": "cpu", "pid": 1}
        attempt |= {"started_at": 1.0, "ended_at": 2.0, "outcome": "failed", **values}
        connection.execute(sa.insert(attempts).values(**attempt, rounds_trained=12))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(store: Engine) -> Iterator[str]:
    with served_here(str(store.url)) as address:
        yield address


@pytest.fixture(scope="module")
def tab(browser: Browser, address: str) -> Iterator[Page]:
    """A tab that has entered the page of the store. Its server starts once for all tests."""
    with browser.new_context(viewport={"width": 1000, "height": 700}) as context:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        enter(page, address, TOKEN)
        yield page
        assert errors == []


@pytest.fixture(scope="module")
def root(tab: Page) -> str:
    """The address of the overview, below the secret path."""
    return tab.url


def draw(page: Page, address: str) -> None:
    """Open an address, and wait until its visible figures are drawn."""
    page.goto(address)
    live(page)
    for chart in page.locator(".chart:visible").all():
        chart.locator(".main-svg").first.wait_for()


NAMES = """() => document.getElementById("arms").data.filter((line) => line.showlegend !== false)
  .map((line) => line.name.split(" (")[0])"""
"""Return the names of the lines by round."""

RANGE = """() => document.getElementById("arms").layout.xaxis.range.map((x) => Math.round(100 * x))
  .join()"""
"""Return the ends of the axis of rounds, in hundredths of a round."""

LINE = """(name) => [...document.getElementById("arms").data
  .find((line) => line.showlegend !== false && line.name.startsWith(name)).y]"""
"""Return the values of a line by round."""


def test_a_choice_is_applied_at_once_and_kept_in_the_address(tab: Page, root: str) -> None:
    """The page is not loaded again, the focus stays, and a reload shows the same choice."""
    draw(tab, f"{root}sweeps/study")
    tab.evaluate("window.kept = true")
    for name in ("FIXBN T⋆=3", "FIXBN T⋆=6"):
        box = tab.get_by_label(name, exact=True)
        box.focus()
        tab.keyboard.press("Space")
    expect(tab.locator("#arms .infolayer .legendtext")).to_have_count(2)
    assert tab.evaluate(NAMES) == ["BN", "GN"]
    expect(box).to_be_focused()
    expect(tab).to_have_url(f"{root}sweeps/study?arm=BN&arm=GN")
    link = tab.locator("#rounds-notes a")
    expect(link).to_have_attribute("href", re.compile(r"arm=BN&arm=GN"))
    tab.get_by_label("α", exact=True).uncheck()
    expect(tab.locator("#table tbody tr")).to_have_count(1)
    expect(tab.locator("#panel")).to_have_count(0)
    tab.get_by_label("α", exact=True).check()
    expect(tab.locator("#table tbody tr")).to_have_count(2)
    tab.get_by_label("Panel").select_option("α = 1, E = 2, momentum = reset")
    expect(link).to_have_attribute("href", re.compile(r"panel=%CE%B1\+%3D\+1%2C"))
    assert tab.evaluate("window.kept")
    tab.reload()
    live(tab)
    expect(tab.locator("#arms .infolayer .legendtext")).to_have_count(2)
    expect(tab.get_by_label("Panel")).to_have_value("α = 1, E = 2, momentum = reset")
    expect(tab.get_by_label("FIXBN T⋆=3", exact=True)).not_to_be_checked()
    tab.get_by_role("button", name="none").click()
    expect(tab.get_by_text("No arm is chosen.")).to_be_visible()
    tab.get_by_role("button", name="all").click()
    expect(tab.locator("#arms .infolayer .legendtext")).to_have_count(4)
    expect(tab).to_have_url(re.compile(r"study\?panel=[^&]*$"))


def test_tuning_is_chosen_in_the_page(tab: Page, root: str, store: Engine, tmp_path: Path) -> None:
    """The rows of the learning rates become one, and T⋆ is no longer an arm's name."""
    study.fill_tuned(store, tmp_path, "tuned")
    draw(tab, f"{root}sweeps/tuned")
    expect(tab.locator("#table tbody tr")).to_have_count(2)
    tab.locator("#tune-lr").check()
    expect(tab.locator("#table tbody tr")).to_have_count(1)
    expect(tab.locator("#table tbody tr")).to_contain_text("(lr=0.05)")
    expect(tab.locator("#group-lr")).to_have_count(0)
    expect(tab.get_by_label("FIXBN T⋆=3", exact=True)).to_be_checked()
    tab.get_by_role("group", name="Best on validation").get_by_label("T⋆").check()
    expect(tab.locator("#arms .infolayer .legendtext")).to_have_count(3)
    assert tab.evaluate(NAMES) == ["BN", "FIXBN", "GN"]
    expect(tab.locator("#freeze-notes")).to_contain_text("there is no accuracy by T⋆")
    expect(tab).to_have_url(f"{root}sweeps/tuned?tune=freeze_round&tune=lr")
    tab.reload()
    live(tab)
    expect(tab.locator("#tune-lr")).to_be_checked()
    tab.get_by_label("GN", exact=True).uncheck()
    expect(tab).to_have_url(re.compile("arm=BN&arm=FIXBN$"))
    tab.locator("#tune-lr").uncheck()  # its arms are others, so that no choice among them stays
    tab.locator("#tune-freeze_round").uncheck()
    expect(tab.locator("#table tbody tr")).to_have_count(2)
    expect(tab).to_have_url(f"{root}sweeps/tuned")


def test_the_first_panel_of_the_list_can_be_chosen_if_another_is_usual(
    tab: Page, root: str, store: Engine, tmp_path: Path
) -> None:
    """The plan has α = 1 first, so that its panel is shown and is not in the address."""
    file = tmp_path / "turned.toml"
    turned = study.PLAN.replace('"study"', '"turned"').replace("[0.1, 1.0]", "[1.0, 0.1]")
    file.write_text(turned.replace("lr = 0.05", "lr = 0.1"))
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
        study.finish(connection, trials.c.lr == 0.1, trials.c.state == "queued")
    draw(tab, f"{root}sweeps/turned")
    panel, first = tab.get_by_label("Panel"), "α = 0.1, E = 2, momentum = reset"
    usual = first.replace("0.1", "1")
    expect(panel).to_have_value(usual)
    panel.select_option(first)
    expect(tab).to_have_url(re.compile(r"turned\?panel=%CE%B1\+%3D\+0\.1%2C[^&]*$"))
    tab.get_by_label("GN", exact=True).uncheck()
    expect(tab).to_have_url(re.compile(r"\?panel=%CE%B1\+%3D\+0\.1%2C.*&arm=BN"))
    expect(panel).to_have_value(first)
    panel.select_option(usual)
    expect(tab).to_have_url(re.compile(r"turned\?arm=BN"))


def test_the_zoom_survives_updates_and_smoothing_and_is_reset_by_keyboard(
    tab: Page, root: str, store: Engine
) -> None:
    """The label of the axis says that the lines are smoothed."""
    draw(tab, f"{root}sweeps/study")
    whole = tab.evaluate(RANGE)
    raw = tab.evaluate(LINE, "GN")
    area = tab.locator("#arms .nsewdrag").bounding_box()
    assert area is not None
    left, top = area["x"] + area["width"] / 4, area["y"] + area["height"] / 4
    tab.mouse.move(left, top)
    tab.mouse.down()
    tab.mouse.move(left + area["width"] / 2, top + area["height"] / 2, steps=3)
    tab.mouse.up()
    wait_until(tab, f"({RANGE})() !== '{whole}'")
    zoomed = tab.evaluate(RANGE)
    (low, high), (left_end, right_end) = (map(int, ends.split(",")) for ends in (whole, zoomed))
    assert low < left_end < right_end < high
    with transaction(store) as connection:
        again = sa.update(trials).where(trials.c.normalizer == "gn", trials.c.seed == 2)
        connection.execute(again.values(state="queued"))
    expect(tab.locator("#arms .infolayer .legendtext", has_text="GN (n = 2)")).to_be_visible()
    assert tab.evaluate(RANGE) == zoomed
    updated = tab.evaluate(LINE, "GN")
    assert updated != raw
    tab.get_by_label("Smoothing").select_option("mean of 5 rounds")
    expect(tab.locator("#arms .ytitle")).to_have_text("test accuracy, % (mean of 5 rounds)")
    expect(tab.get_by_text("The lines are smoothed")).to_be_visible()
    assert tab.evaluate(RANGE) == zoomed
    smooth = tab.evaluate(LINE, "GN")
    assert smooth == pytest.approx(running_mean(updated, 5))
    expect(tab).to_have_url(f"{root}sweeps/study?smooth=5")
    reset = tab.get_by_role("button", name="Reset zoom of accuracy by round")
    reset.focus()
    tab.keyboard.press("Enter")
    wait_until(tab, f"({RANGE})() === '{whole}'")
    expect(reset).to_be_focused()
    tab.reload()
    live(tab)
    expect(tab.locator("#arms .ytitle")).to_have_text("test accuracy, % (mean of 5 rounds)")
    with transaction(store) as connection:
        back = sa.update(trials).where(trials.c.normalizer == "gn", trials.c.seed == 2)
        connection.execute(back.values(state="finished"))


def running_mean(values: list[float], rounds: int) -> list[float]:
    """Return the mean around each value. The window is narrower near both ends."""
    means = []
    for place in range(len(values)):
        reach = min(rounds // 2, place, len(values) - 1 - place)
        window = values[place - reach : place + reach + 1]
        means.append(sum(window) / len(window))
    return means


def test_a_figure_by_freeze_round_appears_with_its_first_trial(tab: Page, root: str) -> None:
    """It is hidden if no chosen arm has a T⋆, and its axis is T⋆."""
    draw(tab, f"{root}sweeps/study?arm=BN&arm=GN")
    expect(tab.locator("#by-freeze-round")).to_be_hidden()
    tab.get_by_label("FIXBN T⋆=3", exact=True).check()
    tab.get_by_label("FIXBN T⋆=6", exact=True).check()
    expect(tab.locator("#by-freeze-round .xtitle")).to_have_text("T⋆, rounds")
    expect(tab.locator("#by-freeze-round .infolayer .legendtext")).to_have_count(3)
    wait_until(
        tab,
        """document.getElementById("by-freeze-round").data.find((t) => t.name === "FIXBN")
        ?.x.join() === "3,6" """,
    )


def test_two_trials_are_compared_from_the_list(tab: Page, root: str) -> None:
    """Their lines are in one figure. The data can be downloaded."""
    tab.goto(f"{root}trials?alpha=0.1&seed=0")
    live(tab)
    boxes = tab.locator("#list [type=checkbox]")
    boxes.nth(1).check()
    boxes.nth(2).check()
    tab.get_by_role("button", name="Compare the two checked trials").click()
    expect(tab).to_have_url(re.compile(r"/compare\?trial=\w{20}&trial=\w{20}$"))
    live(tab)
    expect(tab.locator("#accuracy .infolayer .legendtext")).to_have_count(2)
    expect(tab.locator("#loss .infolayer .legendtext")).to_have_count(4)
    expect(tab.locator("#settings .differs")).not_to_have_count(0)
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Accuracy as CSV").click()
    assert re.fullmatch(r"trials-\w{10}-\w{10}-accuracy-by-round\.csv",
                        download.value.suggested_filename)  # fmt: skip
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("trial_id,round,test_accuracy")
    assert len(lines) == 25


def test_arms_are_chosen_without_a_script(browser: Browser, address: str) -> None:
    """A button applies the choice. Controls that need a script are not shown."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        enter(page, address, TOKEN)
        page.goto(f"{page.url}sweeps/study")
        for name in ("BN", "FIXBN T⋆=3", "FIXBN T⋆=6", "GN"):
            page.get_by_label(name, exact=True).uncheck()
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("No arm is chosen.")).to_be_visible()
        expect(page.get_by_label("GN", exact=True)).not_to_be_checked()
        page.get_by_label("GN", exact=True).check()
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_label("GN", exact=True)).to_be_checked()
        expect(page.get_by_label("BN", exact=True)).not_to_be_checked()
        expect(page.locator(".needs-script:visible")).to_have_count(0)


AXE = {"resultTypes": ["violations"]}


def serious(page: Page, axe: Axe) -> list[tuple[Any, ...]]:
    """Return the serious and critical findings of axe-core, light and dark."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two literals
        rules = {} if scheme == "light" else {"runOnly": ["color-contrast"]}
        for finding in axe.run(page, options=AXE | rules).response["violations"]:
            if finding["impact"] in ("serious", "critical"):
                nodes = [node["html"] for node in finding["nodes"]]
                found.append((scheme, finding["id"], nodes))
    page.emulate_media(color_scheme="light")
    return found


SCREENS = (
    *("queue", "trials?seed=0", "trials/FAILED", "sweeps/study"),
    *("", "failures", "compare?trial=A&trial=B", "compare?trial=zz&trial=zz"),
    *("sql?q=SELECT+1", "nowhere"),
)


@pytest.mark.parametrize(
    "screens", [SCREENS[:4], pytest.param(SCREENS[4:], marks=pytest.mark.slow)]
)
def test_axe_finds_nothing_serious_on_any_screen(
    screens: tuple[str, ...], tab: Page, root: str, store: Engine
) -> None:
    """Only colors depend on the scheme, so the dark one is checked for contrast."""
    failed, pair = study.ids(store, id=1)[0], study.ids(store, alpha=0.1, seed=1)[:2]
    axe = Axe()
    for screen in screens:
        path = screen.replace("FAILED", failed).replace("A&", f"{pair[0]}&")
        draw(tab, root + path.replace("=B", f"={pair[1]}"))
        assert serious(tab, axe) == [], path


def test_axe_sees_faults_of_text_and_of_color(tab: Page, root: str) -> None:
    """A field without a label and a dark text on a dark ground are found."""
    tab.goto(f"{root}queue")
    tab.evaluate("document.querySelector('main').append(document.createElement('select'))")
    tab.evaluate("document.querySelector('h1').style.color = '#333333'")
    assert [finding[:2] for finding in serious(tab, Axe())] == [
        ("light", "select-name"),
        ("dark", "color-contrast"),
    ]
