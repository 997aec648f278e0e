"""The check that the built site loads nothing from another host: `python -m reference.site site`.

A link that a reader may follow is not a load.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

OTHER_HOST = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
"""The beginning of an address of another host."""

LOADING_LINKS = frozenset({
    *("stylesheet", "preload", "modulepreload", "preconnect", "dns-prefetch", "prefetch"),
    *("icon", "manifest"),
})  # fmt: skip
"""The relations of a `link` element that make a browser load or connect."""

LOADING_ATTRIBUTES = frozenset({"src", "srcset", "poster", "data", "xlink:href", "background"})
"""The attributes with an address that a browser loads, of every element."""

IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
"""An address of another host in a style sheet."""

IN_SCRIPT = re.compile(r"https?://[\w.-]+[\w./-]*")
"""An address in a script."""

NAMESPACE = "http://www.w3.org/"
"""The beginning of the names of XML's vocabularies, which no browser loads."""

DORMANT = {
    "https://unpkg.com/mermaid": 'class="mermaid"',
    "https://unpkg.com/glightbox": 'class="glightbox',
    "https://unpkg.com/ace-builds": 'class="pyodide',
    "https://unpkg.com/pyodide": 'class="pyodide',
    "https://cdn.jsdelivr.net/pyodide": 'class="pyodide',
    "https://api.github.com/": 'data-md-component="source"',
    "https://unpkg.com/resize-observer-polyfill": "",
}
"""Addresses in the theme's script that it loads only for a feature, and the mark of that feature
in a page. The last is loaded only by browsers from before 2020, which is no mark in a page.
"""

INDEX = "search.js"
"""The text of all pages, for the search. It is data, and contains addresses as text."""


class _Page(HTMLParser):
    """The addresses of other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        values = {name: value or "" for name, value in attrs}
        named = [value for name, value in values.items() if name in LOADING_ATTRIBUTES]
        if tag in ("link", "use", "image") and (
            tag != "link" or LOADING_LINKS & set(values.get("rel", "").lower().split())
        ):
            named.append(values.get("href", ""))
        self.loads += [address for address in named if OTHER_HOST.match(address)]
        self.loads += IN_STYLE.findall(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  # as HTMLParser names it
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "style":
            self.loads += IN_STYLE.findall(data)
        elif self._within == "script":
            self.loads += _in_script(data)


def _in_script(text: str) -> list[str]:
    found = [address for address in IN_SCRIPT.findall(text) if not address.startswith(NAMESPACE)]
    return [address for address in found if not address.startswith(tuple(DORMANT))]


def loads(name: str, text: str) -> list[str]:
    """Return the addresses of other hosts that a file of the site loads."""
    suffix = Path(name).suffix
    if suffix == ".html":
        page = _Page()
        page.feed(text)
        marks = [address for address, mark in DORMANT.items() if mark and mark in text]
        return page.loads + marks
    if suffix in (".css", ".svg"):
        return IN_STYLE.findall(text)
    if suffix == ".js" and Path(name).name != INDEX:
        return _in_script(text)
    return []


def problems(site: Path) -> Iterator[str]:
    """Yield a sentence for each load from another host.

    Raises:
        FileNotFoundError: the site has no front page, so that nothing was built.

    """
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"{site} has no index.html: build the site first")
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css", ".svg", ".js"):
            for address in loads(path.name, path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(site)} loads {address}: copy it into docs/assets"


def main() -> int:
    """Check the site that the first argument names; return the exit code."""
    found = list(problems(Path(sys.argv[1])))
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
