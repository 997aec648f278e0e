"""Rules that the tests themselves keep."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.builders import REPOSITORY

TESTS = REPOSITORY / "tests"


def imported(file: Path) -> Iterator[str]:
    """Yield the full name of each module, or of each name in a module, that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_test_module_is_imported() -> None:
    """Builders are in modules of their own, and pytest finds fixtures in `conftest.py`."""
    wrong = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file in sorted(TESTS.rglob("*.py"))
        for name in imported(file)
        if name.startswith("tests.")
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]
    assert wrong == []
