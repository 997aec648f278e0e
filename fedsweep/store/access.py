"""Ways to read a SQLite file: in place, in place without locks, or through a private copy.

SQLite needs a shared index (`-shm`) next to a database in WAL mode, even to read it. SQLite cannot
create that index in a folder that this user cannot write.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.engine import Engine

from fedsweep.errors import StoreBusy, StoreError, StoreReadOnly
from fedsweep.store.location import shown, sidecar

COPIED = ("", "-wal", "-journal")
"""Suffixes of the files that hold the committed data: the database, its WAL and its journal."""

FileStates = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and modification time of each of a database's files, None for a missing file."""


def access_of(engine: Engine) -> Access | None:
    """Return the access of an engine that only reads a SQLite file, None for another engine."""
    access = engine.get_execution_options().get("access")
    return access if isinstance(access, Access) else None


def require_writable(file: Path) -> None:
    """Refuse to write to a database file that this user can only read.

    Raises:
        StoreReadOnly: The file, or its folder, cannot be written.

    """
    if not writable(file):
        raise StoreReadOnly(
            f"{shown(file)} is read-only here: make its file and folder writable, name another "
            "with --db, or copy it (`fedsweep db copy`)"
        )


def writable(file: Path) -> bool:
    """Return whether this user can write or create the file, and can create files next to it."""
    return _can_write(file.parent) and (not file.exists() or _can_write(file))


def _can_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


class Access:
    """The way to read one SQLite file. Each new connection chooses it again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.without_locks = False
        """True if SQLite reads the file as immutable, and therefore takes no locks."""
        self._lock = threading.Lock()
        self._copy: tuple[FileStates, TemporaryDirectory[str]] | None = None

    def address(self, mode: str = "ro") -> str:
        """Return the URI with which SQLite can read the file now.

        Raises:
            StoreError: The file has a log that can neither be read in this folder nor copied.

        """
        self.without_locks = False
        if writable(self.file):
            return f"{self.file.as_uri()}?mode={mode}"
        logs = any(_size(sidecar(self.file, end)) for end in ("-wal", "-journal"))
        in_place = f"{self.file.as_uri()}?mode=ro"
        # If the index is missing, SQLite would create one in another user's folder.
        leaves_no_file = sidecar(self.file, "-shm").exists() or not _can_write(self.file.parent)
        if leaves_no_file and _opens(in_place):
            return in_place
        if logs:
            return f"{self._private_copy().as_uri()}?mode=ro"
        self.without_locks = True
        return f"{in_place}&immutable=1"

    def close(self) -> None:
        """Delete the private copy, if there is one."""
        with self._lock:
            if self._copy is not None:
                self._copy[1].cleanup()
                self._copy = None

    def file_states(self) -> FileStates:
        """Return values that differ after any change of the database's files."""
        return tuple(_file_state(sidecar(self.file, end)) for end in COPIED)

    def require_unchanged(self, before: FileStates) -> None:
        """Refuse a result that was read without locks if the files have changed in the meantime.

        Raises:
            StoreBusy: The files have changed.

        """
        if self.file_states() != before:
            raise StoreBusy(
                f"{shown(self.file)} was written to while it was read: try again, or read it "
                "where you may write to its folder"
            )

    def _private_copy(self) -> Path:
        """Return a copy in a temporary folder, in which SQLite can apply the log."""
        with self._lock:
            before = self.file_states()
            if self._copy is None or self._copy[0] != before:
                folder = self._copied(before)
                if self._copy is not None:
                    self._copy[1].cleanup()
                self._copy = (before, folder)
            return Path(self._copy[1].name) / self.file.name

    def _copied(self, before: FileStates) -> TemporaryDirectory[str]:
        folder = TemporaryDirectory(prefix="fedsweep-", ignore_cleanup_errors=True)
        try:
            for end in COPIED:
                source = sidecar(self.file, end)
                if source.exists():
                    shutil.copyfile(source, Path(folder.name) / source.name)
        except OSError as error:
            folder.cleanup()
            raise StoreError(
                f"{shown(self.file)} has a log in a folder that you cannot write, and it cannot "
                f"be copied to {Path(folder.name).parent} ({error.strerror or error}): make room, "
                "or set TMPDIR"
            ) from error
        try:
            self.require_unchanged(before)
            self._require_whole(Path(folder.name) / f"{self.file.name}-wal")
        except BaseException:
            folder.cleanup()
            raise
        return folder

    def require_whole(self) -> None:
        """Refuse a log that is incomplete although no process is writing it.

        Raises:
            StoreError: The log is incomplete: SQLite would read a part of it without an error.

        """
        before = self.file_states()
        try:
            self._require_whole(sidecar(self.file, "-wal"))
        except StoreError:
            if self.file_states() == before:
                raise

    def _require_whole(self, wal: Path) -> None:
        if _size(wal) and not _is_whole(wal.read_bytes()):
            raise StoreError(
                f"{shown(self.file)}-wal is not whole: copy the database and its -wal again while "
                "nothing writes to them; to read what is there, copy both to a folder of yours"
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _file_state(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _opens(address: str) -> bool:
    """Return whether SQLite can read the database at a URI."""
    try:
        connection = sqlite3.connect(address, uri=True)
    except sqlite3.Error:
        return False
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except sqlite3.DatabaseError:  # the first real statement reports the fault
        return True
    else:
        return True
    finally:
        connection.close()


# See https://www.sqlite.org/fileformat2.html#the_write_ahead_log
WAL_HEADER, FRAME_HEADER = 32, 24
WAL_MAGIC = 0x377F0682
"""Magic number of a WAL file. If its last bit is set, checksums use big-endian words."""


def _is_whole(wal: bytes) -> bool:
    """Return whether SQLite reads a log to its end.

    SQLite ignores everything after the first damaged frame without an error. SQLite also reuses
    the file: frames of an earlier use may follow, and these have another salt.
    """
    if len(wal) < WAL_HEADER:
        return False
    magic, _, page = struct.unpack(">3I", wal[:12])
    if magic & ~1 != WAL_MAGIC:
        return False
    order = ">" if magic & 1 else "<"
    sums = _checksum(wal[:24], order, (0, 0))
    sound = sums == struct.unpack(">2I", wal[24:32])
    for start in range(WAL_HEADER, len(wal), FRAME_HEADER + page):
        frame = wal[start : start + FRAME_HEADER + page]
        if not sound or len(frame) < FRAME_HEADER + page:
            return False
        if frame[8:16] != wal[16:24]:
            return True
        sums = _checksum(frame[:8] + frame[FRAME_HEADER:], order, sums)
        sound = sums == struct.unpack(">2I", frame[16:24])
    return sound


def _checksum(content: bytes, order: str, before: tuple[int, int]) -> tuple[int, int]:
    first, second = before
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
