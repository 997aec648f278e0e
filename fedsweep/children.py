"""Python processes that fedsweep starts: no file of the working folder is a module of theirs.

Python puts the working folder in front of its own modules for `-m` and `-c`. There, a `pickle.py`
or a `selectors.py` of anybody would run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAFE_PATH = "PYTHONSAFEPATH"
"""Python's variable that leaves the working folder out of `sys.path`, if it is not empty."""
OURS = "fedsweep"
"""Our value of SAFE_PATH. A process that finds it removes it: it is not meant for grandchildren."""

_START = "import sys; sys.path.append(sys.argv.pop()); from {0} import main; main()"


def command(module: str) -> list[str]:
    """Return the command line that calls `main()` of a module of this package."""
    flags = ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    home = Path(__file__).resolve().parent.parent  # last in the path, if it is a checkout
    return [sys.executable, "-P", *flags, "-c", _START.format(module), str(home)]


@contextmanager
def safe_path() -> Iterator[None]:
    """Let Python processes that are started in this block keep to their own modules."""
    if os.environ.get(SAFE_PATH):
        yield
        return
    os.environ[SAFE_PATH] = OURS
    try:
        yield
    finally:
        forget_safe_path()


def forget_safe_path() -> None:
    """Remove our setting of `safe_path`: the programs of a plug-in start as they always do."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
