"""The settings of the machine that fedsweep needs, and their replacements.

A container often has no home folder, no temporary folder, and few open files. Such a setting never
fails a trial. It is replaced, or it becomes one sentence for the user.
"""

from __future__ import annotations

import errno
import getpass
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from fedsweep.errors import MachineError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FILES = 28
"""Open files that each process of a worker needs. Torch and the database use about 24."""
FILES_PER_SLOT = 2
"""Open files of the watching process per slot: a pipe and the sentinel of its process."""
ENOUGH_FILES = 4096
"""The soft limit is raised to this number, as far as the hard limit allows. It is ample."""

USER_FOLDERS = {"XDG_CACHE_HOME": ".cache", "XDG_DATA_HOME": ".local/share"}
"""Variables that name a folder of the user, and the folder in the home folder that they replace."""


@cache
def settle_home() -> str | None:
    """Give this process and its children a user name and a folder for caches if they lack one.

    Return a warning if a folder was replaced, otherwise None. A home folder that exists but is
    read-only keeps its files. Only the folders that cannot be created in it are replaced.
    """
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):  # libraries ask for a name, and fail without one
        os.environ["USER"] = f"uid-{os.getuid()}"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() raises, this says "~"
    if not home.is_absolute():
        if (place := _own_folder()) is None:
            return None
        os.environ["HOME"] = str(place)
        return f"this user has no home folder, so caches go to {place}: set HOME"
    lacking = [
        variable
        for variable, name in USER_FOLDERS.items()
        if not os.environ.get(variable, "").strip() and not _usable(home / name / "fedsweep")
    ]
    if not lacking or (place := _own_folder()) is None:
        return None
    for variable in lacking:
        os.environ[variable] = str(place / USER_FOLDERS[variable])
    os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
    return (
        f"the home folder {home} cannot be written, so caches go to {place}: "
        f"set {' and '.join(lacking)}"
    )


def _usable(folder: Path) -> bool:
    """Return whether the folder exists or can be created."""
    with suppress(OSError):
        if folder.is_dir():
            return True
    for place in folder.parents:
        with suppress(OSError):
            if place.exists():
                return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False


def _own_folder() -> Path | None:
    """Return a folder for temporary files that only this user can write; None without one."""
    try:
        folder = Path(tempfile.gettempdir()) / f"fedsweep-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            folder.chmod(0o700)
            return folder
        return Path(tempfile.mkdtemp(prefix="fedsweep-"))
    except OSError:
        return None


def settle_temporary() -> None:
    """Find a folder for temporary files, for this process and its children.

    Raises:
        MachineError: No folder can be written.

    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        for place in _other_places():
            with suppress(OSError), tempfile.TemporaryFile(dir=place):
                tempfile.tempdir = os.environ["TMPDIR"] = str(place)
                return
        raise MachineError(_NO_TEMPORARY) from error


def _other_places() -> Iterator[Path]:
    yield Path("/dev/shm")  # noqa: S108  # the files in it have random names
    yield Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111  # Path.home() raises


def allow_files(slots: int) -> None:
    """Raise the limit of open files, for this process and its children, as far as allowed.

    Raises:
        MachineError: The limit is too low for this number of slots.

    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    needed = FILES + FILES_PER_SLOT * slots
    enough = max(ENOUGH_FILES, needed)
    if soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else max(soft, min(enough, hard))
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        raise MachineError(
            f"a worker with {slots} slot{'s' * (slots != 1)} needs {needed} open files, and {soft} "
            "are allowed here: raise the limit (ulimit -n), or use fewer --slots"
        )


def no_file_left() -> str | None:
    """Return a message if this process cannot open another file now, otherwise None.

    SQLite does not say why it cannot open a file.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return _LIMITS.get(error.errno or 0)
    return None


def fault(error: BaseException) -> str | None:
    """Return a message if a setting of this machine caused an error, otherwise None."""
    chain: BaseException | None = error
    while chain is not None:
        if hasattr(chain, "characters_written"):  # of a stream that would block, not of a process
            return None
        if isinstance(chain, OSError) and chain.errno in _LIMITS:
            return _LIMITS[chain.errno]
        text = str(chain)
        for part, sentence in _MESSAGES.items():
            if isinstance(chain, OSError | RuntimeError) and part in text:
                return sentence
        chain = chain.__cause__
    return None


_NO_TEMPORARY = (
    "no folder for temporary files can be written (TMPDIR, /tmp, /var/tmp, this folder): "
    "name one in TMPDIR"
)
_FILES = "too many files are open: raise the limit (ulimit -n), or use fewer --slots"
_PROCESSES = (
    "no process or thread can be started: raise the limit (ulimit -u, or the container's), "
    "or use fewer --slots"
)
_MEMORY = "the machine has no memory left: free some, or use fewer --slots"
_DISK = "a disk of this machine is full: make room, also in TMPDIR and in the user's cache folder"
_BROKEN = "a disk of this machine fails, or cannot be reached: look at its file systems"
_LIMITS = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EIO: _BROKEN,
    errno.ESTALE: _BROKEN,
}
_MESSAGES = {
    "Too many open files": _FILES,
    "can't start new thread": _PROCESSES,
    "Resource temporarily unavailable": _PROCESSES,
    "No usable temporary directory": _NO_TEMPORARY,
    "Matplotlib requires access to a writable cache directory": (
        "matplotlib has no folder for its cache: name one that can be written in MPLCONFIGDIR"
    ),
    "determine the home directory": "this user has no home folder: set HOME",
    "determine home directory": "this user has no home folder: set HOME",
}
"""Parts of the messages of Python, torch and platformdirs, and the message for the user."""
