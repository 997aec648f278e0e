"""A folder whose files are all written, or none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from fedsweep.errors import RequestError
from fedsweep.files import TEMPORARY, make_folder, written


@contextmanager
def opened_together(folder: Path, names: Sequence[str]) -> Iterator[dict[str, IO[bytes]]]:
    """Open files of a folder for writing. They get their names when all are complete.

    Raises:
        RequestError: the folder cannot be written.

    """
    try:
        make_folder(folder)
        with ExitStack() as stack:
            yield {name: stack.enter_context(written(folder / name)) for name in names}
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be written ({error.strerror or error}): name another with --output"
        ) from error


def refuse_foreign_files(folder: Path, ours: Callable[[Path], bool]) -> None:
    """Refuse a folder with files that an earlier export has not written.

    Raises:
        RequestError: the folder has such files, or is a file.

    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file: name a folder with --output")
    if not folder.exists():
        return
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith(TEMPORARY))
    foreign = sorted(entry.name for entry in entries if not ours(entry))
    if foreign:
        raise RequestError(
            f"{folder} has other files in it ({foreign[0]}): name another folder with --output, "
            "or write into this one with --force"
        )
