"""Write a file that a user names, whole or not at all.

The content of a regular file goes to a temporary file in the same folder, which is synced and
renamed. Symbolic links are followed. The mode and owner of the old file are kept. Devices, pipes
and open descriptors (/dev/stdout) are never replaced. They receive the content when it is complete.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from types import FrameType
from typing import IO

TEMPORARY = ".fedsweep-"
"""The prefix of each temporary file. A killed process may leave such a file in the folder."""

_SPOOLED_BYTES = 64 * 2**20
"""Largest content for a device or pipe in memory. More goes to a temporary file."""
_COPIED_BYTES = 2**20
"""Bytes per step of a copy into a device, a pipe or a file that is written in place."""
_NO_FOLDER_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ETXTBSY)
"""Errors of a folder that accepts no new name. EBUSY: the file itself is a mount point."""
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?P<process>\d+)(/task/\d+)?/fd")
_EFFECTIVE = os.access in os.supports_effective_ids
_LINKS = 40
"""The most symbolic links that are followed to a descriptor, as in the Linux kernel."""


@contextmanager
def written(path: Path, *, overwrite: bool = True, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a seekable file whose content goes to the path when the block ends without an error.

    If the block raises, the old file stays and no temporary file is left. Ctrl-C and SIGTERM raise.
    Without `durable`, the file is not synced to the disk.

    Raises:
        FileExistsError: A file has this name, and `overwrite` is off.
        OSError: The file cannot be written.

    """
    descriptor, before = _descriptor(path), _status(path)
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if descriptor is not None or (before is not None and not stat.S_ISREG(before.st_mode)):
        with _spooled() as file:
            yield file
            _write_through(path, descriptor, file)
        return
    if before is not None and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    target = Path(os.path.realpath(path))
    if before is not None and not os.access(target, os.W_OK, effective_ids=_EFFECTIVE):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if before is not None and _keeps_its_inode(before):
        with _spooled() as file:
            yield file
            _write_in_place(target, file)
        return
    aside = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with _signals_raise():
        try:
            file = created(aside, 0o666 if before is None else 0o600)
        except OSError as error:
            if before is None or error.errno not in _NO_FOLDER_RIGHTS:
                raise
            with _spooled() as file:
                yield file
                _write_in_place(target, file)
            return
        try:
            with file:
                yield file
                _put(file, aside, target, before, overwrite=overwrite, durable=durable)
        finally:
            with suppress(FileNotFoundError):
                aside.unlink()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that the temporary file is removed.

    A handler that a command has set stays. Only the main thread can set a handler.
    """
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # as a shell counts a process that a signal has ended


def write_whole(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file whole or not at all.

    Raises:
        FileExistsError: A file has this name, and `overwrite` is off.
        OSError: The file cannot be written.

    """
    with written(path, overwrite=overwrite) as file:
        file.write(content)


def created(path: Path, mode: int = 0o666) -> IO[bytes]:
    """Create a new file, and open it for reading and writing.

    Raises:
        OSError: The file or a symbolic link of this name exists, or it cannot be created.

    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "w+b")


def make_folder(folder: Path, *, like: Path | None = None) -> None:
    """Create a folder and its missing parents, which only this user can open.

    `like` is a file or folder whose group gets the same access to the new folders. If it is a
    file, all other users get the access that they have to it. An existing folder keeps its mode.

    Raises:
        OSError: The folder cannot be created, or is a file.

    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent, like=like)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return
    if like is not None:
        with suppress(OSError):  # there is no such file, or the file system has no modes
            _share(folder, like.stat())


def _share(folder: Path, like: os.stat_result) -> None:
    """Give a new folder the group of another file, and the access that others have to that file."""
    bits = like.st_mode & (0o066 if stat.S_ISREG(like.st_mode) else 0o060)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # this user is not a member of that group
            os.fchown(opened, -1, like.st_gid)
        made = os.fstat(opened)
        if made.st_gid != like.st_gid:
            bits &= 0o007
        # Each class that can read or write the file can enter the folder.
        enter = sum(1 << shift for shift in (0, 3) if bits >> shift & 0o6)
        os.fchmod(opened, made.st_mode & stat.S_ISGID | 0o700 | bits | enter)
    finally:
        os.close(opened)


def sync_and_replace(file: IO[bytes], aside: Path, target: Path, *, overwrite: bool = True) -> None:
    """Give a complete temporary file its final name, also after a power loss.

    Raises:
        FileExistsError: A file has this name, and `overwrite` is off.
        OSError: The file cannot be synced or renamed.

    """
    file.flush()
    os.fsync(file.fileno())
    if overwrite:
        aside.replace(target)
    else:
        _link(aside, target)
    _sync_folder(target.parent)


@contextmanager
def stdout_kept_for(path: Path | None) -> Iterator[None]:
    """Send printed lines to stderr while the path is the same open file as stdout.

    `--output /dev/stdout` then writes only the data.
    """
    if path is None or not _is_stdout(path):
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def _is_stdout(path: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    return False


def _status(path: Path) -> os.stat_result | None:
    """Return the status of the file at the path, through symbolic links; None if there is none."""
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that the path leads to; None if it leads to none."""
    place = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the descriptor
    for _ in range(_LINKS):
        place = Path(os.path.realpath(place.parent)) / place.name
        match = _DESCRIPTORS.fullmatch(str(place.parent))
        if match and place.name.isdecimal():
            ours = match["process"] in (None, str(os.getpid()))
            return int(place.name) if ours else None
        if not place.is_symlink():
            return None
        place = place.parent / place.readlink()
    return None


def _keeps_its_inode(before: os.stat_result) -> bool:
    """Return whether a rename would lose a hard link, or an owner that cannot be restored."""
    foreign = before.st_uid != os.geteuid() or before.st_gid not in (os.getegid(), *os.getgroups())
    return before.st_nlink > 1 or (foreign and os.geteuid() != 0)


def _spooled() -> IO[bytes]:
    return SpooledTemporaryFile(max_size=_SPOOLED_BYTES)


def _write_through(path: Path, descriptor: int | None, content: IO[bytes]) -> None:
    """Copy the content into a device, a pipe or a descriptor, at its current position."""
    if descriptor is None:
        opened = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    else:
        sys.stdout.flush()
        sys.stderr.flush()
        opened = os.dup(descriptor)
    with os.fdopen(opened, "wb", buffering=0) as out:
        content.seek(0)
        try:
            while chunk := content.read(_COPIED_BYTES):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[out.write(rest) or 0 :]
        except BrokenPipeError:
            if descriptor is None:
                raise
            # The reader of stdout has ended early, as in `--output /dev/stdout | head`.


def _write_in_place(target: Path, content: IO[bytes]) -> None:
    """Overwrite a file whose folder accepts no new name; the space is reserved first."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    with target.open("r+b") as out:
        before = os.fstat(out.fileno()).st_size
        try:
            if size > before and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, size)
        except OSError:
            out.truncate(before)
            raise
        copyfileobj(content, out, _COPIED_BYTES)
        out.truncate()
        out.flush()
        os.fsync(out.fileno())


def _put(
    file: IO[bytes],
    aside: Path,
    target: Path,
    before: os.stat_result | None,
    *,
    overwrite: bool,
    durable: bool,
) -> None:
    """Give the temporary file the owner, the mode and then the name of the old file."""
    file.flush()
    if before is not None:
        with suppress(OSError):  # not every file system has owners and modes
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        with suppress(OSError):
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
    if durable:
        os.fsync(file.fileno())
    if overwrite:
        _rename(file, aside, target, before)
    else:
        _link(aside, target)
    if durable:
        _sync_folder(target.parent)


def _rename(file: IO[bytes], aside: Path, target: Path, before: os.stat_result | None) -> None:
    try:
        aside.replace(target)
    except OSError as error:
        if before is None or error.errno not in _NO_FOLDER_RIGHTS:
            raise
        _write_in_place(target, file)


def _link(aside: Path, target: Path) -> None:
    """Name the file, unless another process has created a file of this name in the meantime."""
    try:
        os.link(aside, target)
    except FileExistsError:
        raise
    except OSError:  # not every file system has hard links
        aside.replace(target)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can sync a folder
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
