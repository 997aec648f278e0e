"""Folders for files that this user writes and later trusts.

Another user who may write a file, or a folder above it, can change its content. A checksum that
lies next to the file does not help.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

FOREIGN_BITS = stat.S_IWGRP | stat.S_IWOTH
"""The bits of a mode that let other users write."""

ASIDE = ".new"
"""The end of the name of each folder that is not complete. A kill may leave such a folder."""


def make_folder(folder: Path) -> None:
    """Create a folder, and the missing ones above it, which only this user can open. An existing
    folder keeps its mode.

    Raises:
        OSError: it cannot be made, or is a file.

    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Give an empty temporary folder next to another one, and delete it afterwards.

    The caller holds the folder's lock. Folders that a killed process left are deleted first.

    Raises:
        OSError: it cannot be made.

    """
    beginning = f".{folder.name}"
    for entry in folder.parent.iterdir():
        if entry.name.startswith(beginning) and entry.name.endswith(ASIDE):
            rmtree(entry, ignore_errors=True)
    made = Path(mkdtemp(prefix=f"{beginning}.", suffix=ASIDE, dir=folder.parent))  # mode 0700
    try:
        yield made
    finally:
        rmtree(made, ignore_errors=True)


def writer_of(folder: Path, *, inside: bool = False) -> str | None:
    """Return another user who may write a folder, or with `inside` its files too. Return None if
    there is none.

    A link is followed to the folder itself, never to a file in it.

    Raises:
        OSError: it cannot be looked at.

    """
    if reason := _writer(folder, folder.stat()):
        return reason
    for entry in folder.iterdir() if inside else ():
        status = entry.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{entry} is not a regular file"
        if reason := _writer(entry, status):
            return reason
    return None


def _writer(place: Path, found: os.stat_result) -> str | None:
    if found.st_uid not in (os.geteuid(), 0):
        return f"{place} belongs to another user"
    if found.st_mode & FOREIGN_BITS:
        return f"other users may write {place}"
    return None


def close(folder: Path) -> None:
    """Remove other users' right to write a folder of this user."""
    with suppress(OSError):
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            folder.chmod(stat.S_IMODE(status.st_mode) & ~FOREIGN_BITS)
