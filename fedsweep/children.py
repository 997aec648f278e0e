"""Python processes that fedsweep starts: they import no module from the working folder.

With `-m` and `-c`, Python searches the working folder before its own modules. It would run any file
there that is called `pickle.py` or `selectors.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

SAFE_PATH = "PYTHONSAFEPATH"
"""Python's variable. If it is not empty, `sys.path` does not contain the working folder."""
OUR_VALUE = "fedsweep"
"""Our value of SAFE_PATH. A child process removes it, because it is not meant for grandchildren."""

_START = "import sys; sys.path.append(sys.argv.pop()); from {0} import main; main()"


def command(module: str) -> list[str]:
    """Return the command line that calls `main()` of a module of this package."""
    flags = ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    home = Path(__file__).resolve().parent.parent  # last in the path, if it is a checkout
    return [sys.executable, "-P", *flags, "-c", _START.format(module), str(home)]


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the working folder out of `sys.path` of processes that are started in this block."""
    if os.environ.get(SAFE_PATH):
        yield
        return
    os.environ[SAFE_PATH] = OUR_VALUE
    try:
        yield
    finally:
        forget_safe_path()


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that are started in this block from running the program's main file again.

    `multiprocessing` runs it in each new process. A script without `if __name__ == "__main__"`
    would then start workers that start workers.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def forget_safe_path() -> None:
    """Remove the setting of `safe_path`, so that a plug-in's programs start as usual."""
    if os.environ.get(SAFE_PATH) == OUR_VALUE:
        del os.environ[SAFE_PATH]
