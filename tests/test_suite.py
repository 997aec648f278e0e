"""Rules that the tests themselves keep."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.command import at_once, start
from tests.builders import REPOSITORY
from tests.tiers import COMMANDS, LARGE, used_by

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


def starts_a_command() -> None:
    def within() -> None:
        start("plan")

    within()


def forks() -> int:
    return os.fork()


def plans_at_once() -> None:
    at_once("plan", "plan.toml")


def works_at_once() -> None:
    at_once("work", "--until-empty")


def takes_a_large_model() -> str:
    return "deeplabv3plus"


def test_a_test_that_starts_a_process_is_known_by_its_code() -> None:
    """The builders that it calls count, and the names of commands that start processes."""
    assert used_by(starts_a_command).processes
    assert used_by(forks).processes
    assert not used_by(plans_at_once).processes
    assert not used_by(plans_at_once).constants & COMMANDS
    assert used_by(works_at_once).constants & COMMANDS
    assert "at_once" in used_by(works_at_once).names


def test_a_test_of_a_large_model_is_known_by_its_name() -> None:
    assert used_by(takes_a_large_model).constants & LARGE
    assert not used_by(plans_at_once).constants & LARGE


def test_the_plugin_refuses_all_processes_except_quick_programs() -> None:
    """It cannot be removed, so the test uses another process."""
    code = """
import subprocess
from tests import no_processes
no_processes.pytest_collection_finish()
subprocess.run(["git", "--version"], check=False)
try:
    subprocess.run(["true"], check=False)
except AssertionError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "a test without the mark `process` starts one" in done.stdout, done.stderr
