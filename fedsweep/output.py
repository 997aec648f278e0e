"""Standard output and standard error whose failures never stop a command.

A failed write raises nothing. `check` reports at the end of a command that its output is
incomplete. A character that the encoding lacks is replaced by an ASCII stand-in. A character that
would control the terminal is replaced in all printed text, because names, errors and plans come
from others.
"""

from __future__ import annotations

import atexit
import codecs
import errno
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from fedsweep.errors import OutputLost, ReaderGone, visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STAND_INS = {
    "⋆": "*", "–": "-", "—": "-", "−": "-", "…": "...", "±": "+/-", "†": "^", "·": "-",
    "α": "alpha", "β": "beta", "γ": "gamma", "μ": "mu", "≥": ">=", "≤": "<=", "×": "x",
}  # fmt: skip
"""ASCII for the characters of fedsweep's own texts. Other characters are written as escapes."""
ERRORS = "fedsweep-stand-ins"
"""The name of the error handler that replaces characters."""

GONE = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET})
"""Errors of a stream whose reader has ended, such as a closed pipe or a closed terminal."""
PENDING_BYTES = 1 << 20
"""Bytes that wait for a stopped reader. More are dropped, so that memory is bounded."""
DRAIN_SECONDS = 5.0
"""Seconds without progress after which an ending process stops waiting for a reader."""
PUT_SECONDS = 0.2
"""Seconds of one write after which a process treats its reader as stopped."""
CHUNK = 4096
"""Bytes of one write. A pipe accepts this number at once."""


class Stream(io.RawIOBase):
    """A file descriptor to write to. An error is stored in `failure` and never raised."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.failure: OSError | None = None
        """The first error."""
        self.text: io.TextIOWrapper | None = None
        """The text stream that writes to this stream."""
        self._writer: _Writer | None = None

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self.descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all data, or pass it to the writing thread."""
        content = bytes(data)
        if self._writer is not None:
            self._writer.put(content)
        elif self.failure is None:  # after an error, the rest would leave a hole
            self.put(content)
        return len(content)

    def put(self, content: bytes) -> None:
        """Write now, and wait if the reader is slow."""
        try:
            while content:
                try:
                    content = content[os.write(self.descriptor, content[:CHUNK]) :]
                except BlockingIOError:  # another program has made the descriptor non-blocking
                    select.select([], [self.descriptor], [])
        except OSError as error:
            self.failure = self.failure or error

    def in_background(self) -> None:
        """Start a thread that writes, so that a stopped reader does not stop the process."""
        if self._writer is None:
            self._writer = _Writer(self)

    @property
    def is_in_background(self) -> bool:
        """Return whether a thread writes the stream."""
        return self._writer is not None

    def drain(self) -> None:
        """Write the buffer. Wait for the thread as long as the reader reads."""
        if self.text is not None:
            self.text.flush()
        if self._writer is not None:
            self._writer.drain()


class _Text(io.TextIOWrapper):
    """A text stream without characters that would control a terminal."""

    returns = False
    """True if carriage returns are written, which the progress bars of plug-ins use."""

    def write(self, text: str, /) -> int:
        """Write a text; replace the characters that would control a terminal."""
        if not self.returns or "\r" not in text:
            return super().write(visible(text))
        return super().write("\r".join(map(visible, text.split("\r"))))


class _Replaced:
    """The same filter around a stream that a caller has put into `sys`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return int(self.stream.write(visible(text)))


class _Unfiltered:
    """A `_Text` without its filter, for code that adds terminal codes to filtered texts."""

    def __init__(self, stream: _Text) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self.stream, text)


def unfiltered(stream: Any) -> IO[str]:
    """Return a filtered stream without its filter, and any other stream as it is."""
    if isinstance(stream, _Replaced):
        stream = stream.stream
    return cast("IO[str]", _Unfiltered(stream) if isinstance(stream, _Text) else stream)


@contextmanager
def visible_only() -> Iterator[None]:
    """Filter the streams that a caller has put into `sys`, while a command runs."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, (_Text, _Replaced)):
            setattr(sys, name, _Replaced(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Writer:
    """A thread that writes a stream.

    It tries each write, also after an error, because a full disk may have room again.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.pending: deque[bytes] = deque()
        self.bytes = self.left_out = 0
        self.stuck = False
        """True if the reader has stopped. No write waits for it until it has read everything."""
        self.changed = threading.Condition()
        threading.Thread(target=self._run, name="fedsweep-output", daemon=True).start()

    def put(self, content: bytes) -> None:
        with self.changed:
            if self.bytes + len(content) > PENDING_BYTES:
                self.left_out += content.count(b"\n")
                return
            if self.left_out and not self.stream.isatty():
                note = f"[{self.left_out} lines left out: nobody read them]\n".encode()
                self.pending.append(note)
                self.bytes += len(note)
            self.left_out = 0
            for start in range(0, len(content), CHUNK):
                self.pending.append(content[start : start + CHUNK])
            self.bytes += len(content)
            self.changed.notify_all()
            if not self.stuck:  # wait, so that a crash loses nothing and the streams stay in order
                self.stuck = not self.changed.wait_for(self._is_written, PUT_SECONDS)

    def _is_written(self) -> bool:
        return not self.pending

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.pending:
                    self.changed.wait()
                chunk = self.pending[0]
            self.stream.put(chunk)
            with self.changed:
                self.pending.popleft()
                self.bytes -= len(chunk)
                self.stuck = self.stuck and bool(self.pending)
                self.changed.notify_all()

    def drain(self) -> None:
        with self.changed:
            while self.pending:
                before = self.bytes
                if not self.changed.wait(DRAIN_SECONDS) and self.bytes == before:
                    return


_streams: dict[str, Stream] = {}
"""The streams of this process by name in `sys`."""


def prepare(*, returns: bool = False) -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that raise nothing.

    With `returns`, they accept carriage returns.

    A stream that a caller has replaced stays as it is. A closed descriptor is opened on the null
    device. Otherwise the next file, for example the database, would take its number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest free number
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if name in _streams or old is not getattr(sys, f"__{name}__"):
            continue
        if old is None:  # closed when Python started; its number may be another file's
            descriptor = os.open(os.devnull, os.O_WRONLY)  # noqa: PLW2901  # the null device instead
        _open(name, descriptor, old, returns=returns)
    atexit.register(_finish)


def reopen_stderr(descriptor: int) -> None:
    """Make `sys.stderr` write to another descriptor."""
    old = _streams.get("stderr")
    if old is not None:
        old.drain()
    _open("stderr", descriptor, sys.stderr, returns=getattr(sys.stderr, "returns", False))
    if old is not None and old.is_in_background:
        _streams["stderr"].in_background()


def _open(name: str, descriptor: int, old: TextIO | None, *, returns: bool) -> None:
    stream = _streams[name] = Stream(descriptor)
    unbuffered = bool(getattr(old, "write_through", False))
    text = stream.text = _Text(
        cast("BinaryIO", stream) if unbuffered else io.BufferedWriter(stream),
        encoding=old.encoding if old is not None else "utf-8",
        errors=ERRORS,
        line_buffering=name == "stderr" or stream.isatty(),
        write_through=unbuffered,
    )
    text.returns = returns
    setattr(sys, name, text)


def in_background() -> None:
    """Write both streams in threads: neither a stopped reader nor an error stops the process."""
    for stream in _streams.values():
        stream.in_background()


def check() -> None:
    """Raise an error if standard output has failed.

    If a thread writes it (`in_background`), only print a note about a failure.

    Raises:
        ReaderGone: The reader of the output has ended.
        OutputLost: The output cannot be written, for example because the disk is full.

    """
    stream = _streams.get("stdout")
    if stream is None:
        return
    stream.drain()
    if stream.failure is None:
        return
    gone = stream.failure.errno in GONE
    if stream.is_in_background:
        if not gone:
            why = stream.failure.strerror
            print(f"fedsweep: some of the output could not be written ({why})", file=sys.stderr)
        return
    if gone:
        raise ReaderGone
    raise OutputLost(
        f"standard output cannot be written ({stream.failure.strerror}), so the output is "
        "incomplete: make room, or send it elsewhere"
    )


def _finish() -> None:
    """Write the buffers at the end of the process."""
    for stream in _streams.values():
        stream.drain()


def write_utf8(text: str) -> None:
    """Write a text for programs to standard output, in UTF-8 in every locale.

    On a terminal, characters that would control it are replaced.
    """
    if sys.stdout.isatty():
        text = visible(text)
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a caller has replaced it by a stream without a buffer
        unfiltered(sys.stdout).write(text)
        return
    sys.stdout.flush()
    buffer.write(text.encode("utf-8", "backslashreplace"))
    buffer.flush()


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(STAND_INS.get(c) or _escape(c) for c in lost), error.end


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error(ERRORS, _stand_in)
