"""The built site opens from disk: it loads nothing from another host, and its search works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from reference.site import DORMANT, loads, problems
from tests.builders import REPOSITORY
from tests.unit.serve.browsers import NEEDED, TIMEOUT_MS, chromium


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://unpkg.com/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example.org/a.css">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.example.org">'),
        ("a.html", '<img src="http://example.org/a.png">'),
        ("a.html", '<p style="background: url(https://example.org/a.png)">'),
        ("a.html", "<style>@import 'https://example.org/a.css';</style>"),
        ("a.html", '<script>fetch("https://example.org/a.json")</script>'),
        ("a.html", '<pre class="mermaid"><code>graph LR</code></pre>'),
        ("a.css", "@font-face { src: url('https://example.org/a.woff2') }"),
        ("a.svg", "<style>@import url(https://example.org/a.css)</style>"),
        ("a.js", 'import("https://example.org/a.js")'),
    ],
)
def test_a_load_from_another_host_is_found(name: str, text: str) -> None:
    assert loads(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<a href="https://example.org">a link</a> <img src="b.png">'),
        ("a.html", '<link rel="canonical" href="https://example.org/a.html">'),
        ("a.html", '<link rel="stylesheet" href="assets/a.css">'),
        ("a.html", "<code>https://example.org/a.js</code>"),
        ("a.css", "a { background: url(data:image/svg+xml;charset=utf-8,a) }"),
        ("a.js", 'document.createElementNS("http://www.w3.org/2000/svg", "svg")'),
        ("a.js", f'load("{next(iter(DORMANT))}@1/a.js")'),
        ("search.js", 'var __index = {"text": "https://example.org/a.js"}'),
    ],
)
def test_a_link_and_a_text_are_no_loads(name: str, text: str) -> None:
    assert loads(name, text) == []


def test_a_site_that_was_not_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build the site first"):
        list(problems(tmp_path))


OPEN_SEARCH = """() => {
    const roots = [...document.querySelectorAll("*")].map(element => element.shadowRoot);
    const open = roots.some(root => root?.querySelector("dialog")?.open);
    if (!open) document.querySelector(".md-search__button").click();
    return open;
}"""
"""Opens the search, and returns if it is open. A click before the page's script runs is lost."""


def build(folder: Path) -> Path:
    """Build the site in a folder, with warnings as errors; return its own folder."""
    shutil.copy(REPOSITORY / "mkdocs.yml", folder)
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    """It has a page for each file of the documentation."""
    site = build(tmp_path)
    assert list(problems(site)) == []
    sources = {path.relative_to(tmp_path / "docs") for path in (tmp_path / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert {path.with_suffix(".html") for path in sources} <= built


@NEEDED
@pytest.mark.slow
def test_the_search_works_from_disk_without_a_request(tmp_path: Path) -> None:
    """The browser loads files only. A page of the reference is found, in light and in dark."""
    site = build(tmp_path)
    with chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_context(color_scheme=scheme).new_page()
            page.set_default_timeout(TIMEOUT_MS)
            requests: list[str] = []
            errors: list[str] = []
            page.on("request", lambda request, to=requests: to.append(request.url))
            page.on("pageerror", lambda error, to=errors: to.append(str(error)))
            page.goto((site / "index.html").as_uri())
            page.wait_for_function(OPEN_SEARCH, polling=500)
            page.get_by_role("combobox", name="Search").fill("gn_groups")
            expect(page.get_by_role("option").first).to_contain_text("gn_groups")
            page.keyboard.press("Enter")
            page.wait_for_url(re.compile(r"/reference/plan-file\.html.*gn_groups"))
            assert page.evaluate("getComputedStyle(document.body).colorScheme") == scheme
            assert errors == []
            assert [r for r in requests if not r.startswith(("file:", "data:", "blob:"))] == []
