"""The program: `fedsweep`, and `python -m fedsweep`."""

from __future__ import annotations

import os
import sys


def leave_working_folder() -> None:
    """Take the working folder out of `sys.path`, where `python -m` has put it first.

    A checkout that is the working folder stays reachable, behind Python's own modules.
    """
    if sys.flags.safe_path or not sys.path:
        return
    try:
        folder = os.path.realpath(os.getcwd())  # noqa: PTH109  # pathlib is not imported yet
    except OSError:  # it was deleted
        folder = ""
    if sys.path[0] and os.path.realpath(sys.path[0]) != folder:
        return
    del sys.path[0]
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    if home == folder and home not in map(os.path.realpath, sys.path):
        sys.path.append(home)


if __name__ == "__main__":
    leave_working_folder()

from fedsweep import interrupt  # noqa: E402  # not from the working folder

interrupt.watch()  # before all other imports, which take most of a command's first seconds


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly."""
    from fedsweep import cli

    interrupt.run(cli.main)


if __name__ == "__main__":
    main()
