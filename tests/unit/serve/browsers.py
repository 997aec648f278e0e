"""Headless Chromium for the tests of the page."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

TIMEOUT_MS = 60_000.0
"""Milliseconds for which a test waits for another process."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt install it")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser in which all expectations wait for TIMEOUT_MS."""
    expect.set_options(timeout=TIMEOUT_MS)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
    arguments += ["--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def enter(page: Page, address: str, token: str) -> None:
    """Open the printed address, and wait until it has forwarded to the page without the token."""
    page.goto(f"{address}/?token={token}")
    page.wait_for_url(re.compile(rf"{re.escape(address)}/[0-9a-f]{{32}}/$"))


def live(page: Page) -> None:
    """Wait until the page's script has run and its stream is open."""
    expect(page.locator("#link")).to_have_text("live")


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression is true in the page.

    `Page.wait_for_function` evaluates text within the page again and again. The content security
    policy of the page refuses that.
    """
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)
