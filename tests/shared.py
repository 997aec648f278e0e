"""Folders that all worker processes of one test run share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def run_folder(folders: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of this run, the same in all processes of pytest-xdist."""
    own = folders.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` has filled, in the first process that needs it.

    The other processes wait for it. If `make` fails, the next process begins again.
    """
    folder = run_folder(folders) / f"once-{name}"
    complete = folder.with_suffix(".complete")
    with FileLock(folder.with_suffix(".lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
