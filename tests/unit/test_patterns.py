"""Every regular expression takes time linear in the length of its text.

A stranger may have written the text. The patterns are read from the source, so that a new pattern
is tested too. Times are processor times.
"""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from fedsweep import errors, redaction
from fedsweep.reports import selection
from fedsweep.store import artifacts, connector
from fedsweep.store.sql import limits
from tests.builders import REPOSITORY

FUNCTIONS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub"}
VALUES = {"key": "alpha", "endings": (".csv", ".json")}
"""Values of the local variables in patterns."""
FILES = [
    f for folder in ("fedsweep", "trainers") for f in sorted(REPOSITORY.glob(f"{folder}/**/*.py"))
]
LETTERS = [
    *"a7A",
    *map(chr, range(0x20)),
    *"\x80\u2028\u202e\u2066\ud800é",
    *map(chr, range(0x20, 0x7F)),
]
REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}

STEPS = (500, 2_000, 8_000)
MEGABYTE = (250_000, 1_000_000)
LONG = (60_000, 240_000)
CLOCK = 0.001
"""Processor seconds below which a time is too short to compare."""

Search = Callable[[str], object]
Attack = tuple[str, str, str]
"""A start, a repeated text, and an end that does not match."""


@cache
def patterns() -> dict[str, re.Pattern[str]]:
    """Return all patterns of both packages by their place in the source.

    Those of `redaction.secrets` are compiled from a table.
    """
    known = {f"secret {n}": secret for n, (secret, _) in enumerate(redaction.secrets())}
    for file in FILES:
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        for call in ast.walk(ast.parse(file.read_text())):
            if ast.unparse(call) == "re.compile(pattern)" and name == "fedsweep.redaction":
                continue
            if isinstance(call, ast.Call) and is_of_re(call.func):
                module = importlib.import_module(name.removesuffix(".__init__"))
                flags = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
                flags += call.args[1:] if ast.unparse(call.func) == "re.compile" else []
                values = [evaluated(node, module) for node in (call.args[0], *flags)]
                known[f"{name}:{call.lineno}:{call.col_offset}"] = re.compile(*values)
    return known


def is_of_re(function: ast.expr) -> bool:
    text = ast.unparse(function)
    return text.startswith("re.") and text.removeprefix("re.") in FUNCTIONS


def evaluated(node: ast.expr, module: Any) -> Any:
    return eval(compile(ast.Expression(node), "pattern", "eval"), VALUES | vars(module))


def sample(parts: Any, *, first: bool) -> str:
    """Return a text that the parts of a pattern match, except for its lookarounds.

    A set of characters gives its first or its last character.
    """
    return "".join(one(operation, value, first=first) for operation, value in parts)


def one(operation: Any, value: Any, *, first: bool) -> str:
    if operation is _constants.LITERAL:
        return chr(value)
    if operation in (_constants.IN, _constants.NOT_LITERAL, _constants.ANY):
        single = _parser.SubPattern(_parser.State(), [(operation, value)])
        fits = _compiler.compile(single).match
        letters = [letter for letter in LETTERS if fits(letter)]
        return letters[0 if first else -1]
    if operation in REPEATS:
        return sample(value[2], first=first) * max(1, value[0])
    if operation is _constants.BRANCH:
        return sample(value[1][0], first=first)
    if operation is _constants.SUBPATTERN:
        return sample(value[-1], first=first)
    return sample(value, first=first) if operation is _constants.ATOMIC_GROUP else ""


def inner(operation: Any, value: Any) -> Iterator[Any]:
    if operation in REPEATS:
        yield value[2]
    elif operation is _constants.BRANCH:
        yield from value[1]
    elif operation is _constants.SUBPATTERN:
        yield value[-1]
    elif operation is _constants.ATOMIC_GROUP:
        yield value


def attacks_on(parts: Any, before: str = "", *, first: bool) -> Iterator[Attack]:
    """Yield repeated starts of matches and repeated parts, with an end that does not match."""
    for place, (operation, value) in enumerate(parts):
        start = before + sample(list(parts)[:place], first=first)
        through = start + one(operation, value, first=first)
        if through:
            yield "", through, ""
        if operation in REPEATS and (body := sample(value[2], first=first)):
            yield start, body, "\x00"
            yield "", start + body * 2, "\x00"
        for body in inner(operation, value):
            yield from attacks_on(body, start, first=first)


def attacks(pattern: re.Pattern[str]) -> list[Attack]:
    parsed = _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    return sorted({attack for first in (True, False) for attack in attacks_on(parsed, first=first)})


def text_of(attack: Attack, length: int) -> str:
    start, unit, end = attack
    return start + unit * (length // len(unit)) + end


def seconds(search: Search, text: str) -> float:
    """Return the processor time of a search."""
    began = time.thread_time()
    search(text)
    return max(CLOCK, time.thread_time() - began)


def linear_seconds(search: Search, attack: Attack, lengths: tuple[int, ...]) -> float | None:
    """Return the time at the longest length; None if it grew three times as fast as the text.

    A search that is not linear is stopped at a length at which it is still fast.
    """
    before, last = 0, 0.0
    for length in lengths:
        text = text_of(attack, length)
        most = 3 * last * length / before if before else float("inf")
        now = seconds(search, text)
        if now > most and (now := min(now, seconds(search, text))) > most:  # not by chance
            return None
        before, last = length, now
    return last


def searches(pattern: re.Pattern[str]) -> list[Search]:
    return [lambda text: pattern.sub("", text), pattern.fullmatch]


@pytest.mark.parametrize(
    "slow",
    [
        r"(?P<head>\w[\w+.-]*://[^\s/:@]*):\S*@",
        r"(?ix) (\w*(?:password|token)) \s?=\s? (?: '(?:[^'\\]|\\.)*' | [^\s&'\"]+ )",
        r"(?i)[?&][^=&]*(?:token|secret)[^=&]*=",
        r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.+?)\s*",
        r"(?s)'(?:[^']|'')*' | /\*.*?\*/",
    ],
)
def test_a_pattern_that_is_not_linear_is_found(slow: str) -> None:
    """The attacks that are derived from a pattern include its worst case."""
    pattern = re.compile(slow)
    assert any(
        linear_seconds(search, attack, STEPS) is None
        for attack in attacks(pattern)
        for search in searches(pattern)
    )


@pytest.mark.slow  # it takes processor time, which a busy machine disturbs
def test_every_pattern_is_linear() -> None:
    """Each attack is tried at 8,000 characters, and the slowest at a million."""
    known = patterns()
    assert len(known) > 30
    for place, pattern in known.items():
        for search in searches(pattern):
            times = {}
            for attack in attacks(pattern):
                took = linear_seconds(search, attack, STEPS)
                assert took is not None, (place, pattern.pattern, attack)
                times[attack] = took
            for attack in sorted(times, key=lambda attack: times[attack])[-1:]:
                took = linear_seconds(search, attack, MEGABYTE)
                assert took is not None, (place, pattern.pattern, attack)


def test_patterns_are_only_used_through_re() -> None:
    """No other module for patterns is imported, and `re` always keeps its name."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"fnmatch", "regex", "glob"} & set(names), file
            assert not (isinstance(node, ast.ImportFrom) and node.module == "re"), file
            assert not (isinstance(node, ast.alias) and node.name == "re" and node.asname), file


WORST = [
    "a", " ", "\n", "'", '"', "\\", "@", ":", "://", "://a:", "https://a", "https://a@", "a@", "?",
    "?token", "&sig", "password", "password=", "password='", 'password="\\', "password: ", "/*",
    "--", "token>", "eyJ", "eyJa.", "bearer ", "cookie: a", "authorization: digest ", "''", ":a",
    "-----BEGIN PRIVATE KEY-----", "\x1b[", "\ud800", "é",
]  # fmt: skip
"""The repeated texts, one of each form that a function searches."""


def refused(work: Search) -> Search:
    def attempt(text: str) -> None:
        with suppress(errors.RequestError):
            work(text)

    return attempt


@pytest.mark.slow  # as above
@pytest.mark.parametrize(
    "work",
    [
        errors.legible,
        errors.visible,
        redaction._without_passwords,
        lambda text: [pattern.sub("", text) for pattern, _ in redaction.secrets()],
        lambda text: limits.names(text, "sweep"),
        refused(lambda text: artifacts.parse(f"s3://{text}")),
        refused(lambda text: selection.parse_condition(f"alpha={text}")),
        refused(connector.settings_of),
    ],
    ids=["legible", "visible", "urls", "secrets", "sql", "artifacts", "where", "options"],
)
def test_functions_on_foreign_text_are_linear(work: Search) -> None:
    """Each worst case takes about four times as long if it is four times as long."""
    for unit in WORST:
        for end in ("", " x", "\n"):
            assert linear_seconds(work, ("", unit, end), LONG) is not None, (unit, end)


@pytest.mark.parametrize("unit", WORST)
def test_a_message_is_bounded(unit: str) -> None:
    """The message of an error fits on a page, even if it quotes a long text."""
    assert len(str(errors.RequestError(unit * 100_000))) <= errors.LONGEST + 100
    assert len(redaction.hide_secrets(unit * 300_000)) <= redaction.LONGEST + 100
