"""Standard output and standard error that never end the work.

A failed write raises nothing. `check` says at the end of a command that its output is incomplete.
A character that the encoding lacks is replaced by an ASCII stand-in. A character that a terminal
would obey is replaced in all that is printed: names, errors and plans come from others.
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
"""ASCII for the characters of our own texts. Other characters are written as escapes."""
ERRORS = "fedsweep-stand-ins"
"""The name of the error handler that replaces characters."""

GONE = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET})
"""Errors of a stream whose reader has ended: a closed pipe, a terminal that hung up."""
PENDING_BYTES = 1 << 20
"""Bytes that wait for a reader that has stopped. More are left out, so that memory is bounded."""
DRAIN_SECONDS = 5.0
"""Seconds without progress after which the end of a process no longer waits for a reader."""
PUT_SECONDS = 0.2
"""Seconds that a process waits for a reader before it takes it for stopped."""
CHUNK = 4096
"""Bytes of one write. A pipe takes so many at once."""


class Stream(io.RawIOBase):
    """A file descriptor to write to. An error is kept in `failure`, and never raised."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.failure: OSError | None = None
        """The first error."""
        self.text: io.TextIOWrapper | None = None
        """The text stream on top of it."""
        self._writer: _Writer | None = None

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self.descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or hand it to the writing thread."""
        content = bytes(data)
        if self._writer is not None:
            self._writer.put(content)
        elif self.failure is None:  # after an error, the rest would leave a hole
            self.put(content)
        return len(content)

    def put(self, content: bytes) -> None:
        """Write now. It waits if the reader is slow."""
        try:
            while content:
                try:
                    content = content[os.write(self.descriptor, content[:CHUNK]) :]
                except BlockingIOError:  # somebody has set the descriptor to non-blocking
                    select.select([], [self.descriptor], [])
        except OSError as error:
            self.failure = self.failure or error

    def in_background(self) -> None:
        """From now on, let a thread write, so that a stopped reader does not stop the process."""
        if self._writer is None:
            self._writer = _Writer(self)

    @property
    def is_in_background(self) -> bool:
        """Return whether a thread writes it."""
        return self._writer is not None

    def drain(self) -> None:
        """Write what is buffered. Wait for the thread as long as the reader takes anything."""
        if self.text is not None:
            self.text.flush()
        if self._writer is not None:
            self._writer.drain()


class _Text(io.TextIOWrapper):
    """A text stream that a terminal obeys in nothing."""

    returns = False
    """True if a carriage return is written: the progress bars of plug-ins have them."""

    def write(self, text: str, /) -> int:
        """Write a text without what a terminal would obey."""
        if not self.returns or "\r" not in text:
            return super().write(visible(text))
        return super().write("\r".join(map(visible, text.split("\r"))))


class _Replaced:
    """The same for a stream that a caller has put in the place of ours."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return int(self.stream.write(visible(text)))


class _Unfiltered:
    """A text stream of ours for those who put terminal codes around texts that are visible."""

    def __init__(self, stream: _Text) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self.stream, text)


def unfiltered(stream: Any) -> IO[str]:
    """Return the stream under a filter of ours; any other stream as it is."""
    if isinstance(stream, _Replaced):
        stream = stream.stream
    return cast("IO[str]", _Unfiltered(stream) if isinstance(stream, _Text) else stream)


@contextmanager
def visible_only() -> Iterator[None]:
    """Filter the streams that a caller has replaced, while a command runs."""
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
    """Writes a stream in a thread of its own.

    It tries each write, also after an error: a full disk may have room again.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.pending: deque[bytes] = deque()
        self.bytes = self.left_out = 0
        self.stuck = False
        """True if the reader has stopped. Then no write waits for it until it has taken all."""
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
            if not self.stuck:  # it is written before a crash, and before the other stream's next
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
"""The streams of this process, by their names in `sys`."""


def prepare(*, returns: bool = False) -> None:
    """Let `sys.stdout` and `sys.stderr` be streams that raise nothing.

    With `returns` they take carriage returns.

    A stream that a caller has replaced stays as it is. A closed descriptor is opened on the null
    device: otherwise the next file, the database for one, would take its number.
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
        if old is None:  # it was closed when Python began, and its number may be another file's
            descriptor = os.open(os.devnull, os.O_WRONLY)  # noqa: PLW2901  # the null device instead
        _open(name, descriptor, old, returns=returns)
    atexit.register(_finish)


def reopen_stderr(descriptor: int) -> None:
    """Let `sys.stderr` write to another descriptor from now on."""
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
    """Let threads write both streams: neither a stopped reader nor an error stops the process."""
    for stream in _streams.values():
        stream.in_background()


def check() -> None:
    """Say if standard output has failed: as an error, or as a note if the process only works.

    Raises:
        ReaderGone: the reader of the output has ended.
        OutputLost: the output cannot be written, for example because the disk is full.

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
    """Write at the end of the process what is still buffered."""
    for stream in _streams.values():
        stream.drain()


def write_utf8(text: str) -> None:
    """Write a text for programs to standard output: in UTF-8, as in a file, in every locale.

    A terminal gets it without what it would obey.
    """
    if sys.stdout.isatty():
        text = visible(text)
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a caller has replaced it by a text of its own
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
