"""The pages of the documentation: their commands, their links, their anchors, the navigation."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.builders import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
"""The pages of the site."""

DOCUMENTS = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
"""The pages that are not part of the site."""

FENCE = re.compile(r"^( *)(`{3,}|~{3,})([\w-]*)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
ATTRIBUTE = re.compile(r"\b(?:src|href)=\"([^\"]+)\"")
SUBSTITUTION = re.compile(r"\$\(((?:[^()]|\([^()]*\))*)\)")
"""A command whose output becomes words of another one."""
ENDS = frozenset({"|", "||", "&&", "&", ";", ">", ">>", "<", "2>", "2>&1"})
"""Words of a shell that end a command, or its arguments."""


def shown(page: Path) -> str:
    """Return a page's path within the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def fences(text: str, *languages: str) -> list[str]:
    """Return the blocks of code in these languages."""
    return [match[4] for match in FENCE.finditer(text) if match[3] in languages]


def lines(text: str) -> Iterator[str]:
    """Yield the lines that a reader of a page types into a shell."""
    for block in fences(text, "console"):
        joined = block.replace("\\\n", " ")
        yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))
    for block in fences(text, "sh", "bash"):
        yield from block.replace("\\\n", " ").splitlines()


def commands(text: str, program: str = "fedsweep") -> Iterator[tuple[str, ...]]:
    """Yield the words of each call of a program in a page."""
    whole = list(lines(text))
    within = [inner for line in whole for inner in SUBSTITUTION.findall(line)]
    for line in [*(SUBSTITUTION.sub("OUTPUT", line) for line in whole), *within]:
        if program not in line:
            continue
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word in ENDS or word.endswith(";"):
                words += [word[:-1]] if word not in ENDS and word != ";" else []
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
                    del words[0]
                if words and Path(words[0]).name == program:
                    yield tuple(words)
                words = []
            else:
                words.append(word)


def without_code(text: str) -> str:
    """Return a page without its blocks of code and without code within lines."""
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "``", FENCE.sub("", text))


def links(text: str) -> list[str]:
    """Return the addresses of a page's links and images."""
    plain = without_code(text)
    return [*LINK.findall(plain), *ATTRIBUTE.findall(plain)]


def headings(text: str) -> list[str]:
    """Return the texts of a page's headings, without their marks."""
    found = re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in found]
    return [re.sub(r"[`*]", "", heading) for heading in plain]


def _numbered(slugs: Iterable[str], mark: str) -> set[str]:
    seen: Counter[str] = Counter()
    anchors = set()
    for slug in slugs:
        anchors.add(f"{slug}{mark}{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors


def on_github(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    slugs = (re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings(text))
    return _numbered(slugs, "-")


def on_the_site(text: str) -> set[str]:
    """Return the anchors that the site gives to a page's headings."""
    ascii_only = (
        unicodedata.normalize("NFKD", h).encode("ascii", "ignore").decode() for h in headings(text)
    )
    slugs = (re.sub(r"[^\w\s-]", "", h).strip().lower() for h in ascii_only)
    return _numbered((re.sub(r"[-\s]+", "-", slug) for slug in slugs), "_")


def named_anchors(text: str) -> set[str]:
    """Return the anchors that a page sets itself."""
    return set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def broken(page: Path) -> Iterator[str]:
    """Yield each relative link of a page that leads nowhere, with the reason."""
    for link in links(page.read_text()):
        if re.match(r"[a-z][a-z+.-]*:", link) or link.startswith("//"):
            continue
        path, _mark, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{shown(page)}: {link} does not exist"
        elif anchor and target.suffix == ".md":
            text = target.read_text()
            within = target.is_relative_to(DOCS)
            if anchor not in on_github(text) | named_anchors(text):
                yield f"{shown(page)}: {link} is no heading on GitHub"
            elif within and anchor not in on_the_site(text) | named_anchors(text):
                yield f"{shown(page)}: {link} is no heading on the site"


@cache
def navigation() -> tuple[str, ...]:
    """Return the pages in the site's navigation, relative to `docs`."""
    return tuple(_pages_of(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]))


def _pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for child in entry.values() if isinstance(entry, dict) else entry:
        yield from _pages_of(child)
