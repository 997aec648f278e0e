"""A plugin of pytest in which no test can start a process: `pytest -p tests.no_processes`."""

from __future__ import annotations

import sys
from pathlib import Path

QUICK = frozenset({"git", "uname"})
"""Programs that end at once, which describe the code and the machine."""

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in STARTS:
        return
    if not arguments or Path(str(arguments[0])).name not in QUICK:
        raise AssertionError(f"a test without the mark `process` starts one: {event} {arguments}")


def pytest_collection_finish() -> None:
    """Begin when all tests are known, because pytest-xdist starts its workers before."""
    sys.addaudithook(_refuse)
