"""A folder of files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fedsweep.errors import RequestError


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder beside one; what is in it at the end goes there, each file in one step.

    Raises:
        RequestError: the folder cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as aside:
            yield Path(aside)
            for file in sorted(Path(aside).iterdir()):
                file.replace(folder / file.name)
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be written ({error.strerror or error}): name another with --output"
        ) from error


def refuse_foreign(folder: Path, ours: Callable[[Path], bool]) -> None:
    """Refuse a folder in which something lies that an earlier export has not written.

    Raises:
        RequestError: it does, or it is no folder.

    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file: name a folder with --output")
    if not folder.exists():
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if not ours(entry))
    if foreign:
        raise RequestError(
            f"{folder} has other files in it ({foreign[0]}): name another folder with --output, "
            "or write into this one with --force"
        )
