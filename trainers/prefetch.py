"""A helper process that draws the rounds of a trial before its trainer needs them.

The trainer writes the helper's job to a pipe, and later the rounds at which it has arrived. The
helper writes finished rounds to another pipe, which holds as many of them as fit. Both ends of the
trainer never block. If the helper is slow, dies or writes garbage, the trainer draws by itself, so
that the helper changes no number.

The helper ends when its trainer does, even by SIGKILL, because the pipes end then. It ignores
Ctrl-C, which reaches the whole process group of a terminal.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trainers.draws import Drawn, Sampling, draw

PIPE_BYTES = 1 << 20
"""Capacity of the pipe with the rounds, if the system allows it. Linux allows everyone 1 MiB."""

USUAL_PIPE_BYTES = 1 << 16
"""Capacity of a pipe whose size cannot be set."""

MISSES_IN_A_ROW = 1000
"""Rounds that a slow helper may miss, one after another, before it is closed.

The work of such a helper is wasted. The rounds before its first answer do not count.
"""

_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""The signals that a terminal sends to its whole process group."""

_FRAME = struct.Struct("<16sqqI")
"""Before each round in the pipe: the key of its draws, its number, its bytes, their CRC-32."""

_NUMBER = struct.Struct("<q")
"""The length of the job, and then the next round that the trainer will need."""

_START = "import sys; sys.path.append(sys.argv.pop()); from trainers.prefetch import main; main()"


class BadHelper(Exception):
    """The helper has ended, or has written something else than the trial's draws."""


@dataclass(frozen=True)
class _Job:
    """The helper's work: the rounds from `first` to `last`."""

    sampling: Sampling
    first: int
    last: int


class Helper:
    """The trainer's end of a helper process.

    The first round of the helper must equal that of the trainer. Otherwise it runs other code, and
    its rounds are not used.
    """

    def __init__(self, sampling: Sampling, proof: Drawn, last: int) -> None:
        """Start a process that draws from the round of `proof`, which the trainer drew, to `last`.

        Raises:
            OSError: the process cannot be started, or a round is too long for the pipe.
            RuntimeError: the interpreter is ending.

        """
        self.sampling = sampling
        self.proof: Drawn | None = proof
        """None after the helper has drawn the same round."""
        self.misses = 0
        """Rounds in a row that had not arrived in time."""
        self.process = _start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self.stdin, self.stdout):
            os.set_blocking(pipe, False)
        self.capacity = _widen(self.stdout)
        if 2 * (_FRAME.size + len(proof.content)) > self.capacity:
            self.close()
            raise OSError("a round does not fit into the pipe")
        job = pickle.dumps(_Job(sampling, proof.round, last))
        self.unsent = memoryview(_NUMBER.pack(len(job)) + job)
        """The part of the job that the pipe has not taken yet."""
        self.head, self.body = bytearray(_FRAME.size), bytearray()
        self.filled = 0
        """Bytes of the next round, with its head, that have arrived."""
        with suppress(OSError):  # `take` reports a process that has ended already
            self._send()

    def take(self, round: int) -> Drawn | None:
        """Return a round if it has arrived. Rounds are taken in ascending order.

        Raises:
            BadHelper: the helper is of no more use: close it.

        """
        try:
            self._send()
            while (number := self._next()) is not None:
                if number > round:
                    return None
                content, self.filled = self.body, 0
                self._prove(number, content)
                if number == round:
                    self.misses = 0
                    return Drawn(self.sampling, round, content)
            self._skip_to(round + 1)
        except (OSError, ValueError) as error:
            raise BadHelper(str(error)) from error
        return None

    def close(self) -> None:
        """End the process, and leave no zombie. A second call does nothing."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.stdout.close()
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()

    def _send(self) -> None:
        """Write as much of the job as the pipe takes."""
        with suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]
            self.unsent = memoryview(b"")  # free the job

    def _skip_to(self, round: int) -> None:
        """Count a miss, and let the helper go on with a round that the trainer has yet to reach."""
        self.misses += self.proof is None
        if self.misses >= MISSES_IN_A_ROW:
            raise BadHelper("it is slower than the trainer")
        if not self.unsent:
            with suppress(BlockingIOError):  # the helper has many such numbers to read already
                os.write(self.stdin, _NUMBER.pack(round))

    def _next(self) -> int | None:
        """Return the number of the next round in the pipe if all of `body` has arrived."""
        size = _FRAME.size
        if self.filled < size:
            if not self._fill(self.head, 0):
                return None
            key, _, length, _ = _FRAME.unpack(self.head)
            if key != self.sampling.key or not 0 < length <= self.capacity:
                raise BadHelper("it has written garbage")
            self.body = bytearray(length)
        if self.filled < size + len(self.body) and not self._fill(self.body, size):
            return None
        _, number, _, check = _FRAME.unpack(self.head)
        if zlib.crc32(self.body) != check:
            raise BadHelper("it has written garbage")
        return int(number)

    def _fill(self, part: bytearray, start: int) -> bool:
        """Read into a part of a round, which begins at byte `start`. Return whether it is full."""
        rest = memoryview(part)[self.filled - start :]
        with suppress(BlockingIOError):
            while rest:
                count = os.readv(self.stdout, [rest])
                if not count:
                    raise BadHelper("it has ended")
                self.filled += count
                rest = rest[count:]
        return not rest

    def _prove(self, number: int, content: bytearray) -> None:
        """Compare the helper's first round with the trainer's."""
        if self.proof is None:
            return
        if (number, content) != (self.proof.round, self.proof.content):
            raise BadHelper("it draws other numbers")
        self.proof = None


def _start() -> subprocess.Popen[bytes]:
    """Start the helper, without the working folder in its `sys.path`, and with one thread."""
    flags = ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    home = Path(__file__).resolve().parent.parent  # last in the path, if it is a checkout
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with _blocked():
        return subprocess.Popen(
            [sys.executable, "-P", *flags, "-c", _START, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **one},
        )


@contextmanager
def _blocked() -> Iterator[None]:
    """Block the terminal's signals in this thread, and in a process that it starts.

    The process then does not get them before it ignores them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _widen(pipe: int) -> int:
    """Raise the capacity of a pipe if possible. Return the capacity."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return USUAL_PIPE_BYTES
    with suppress(OSError):  # this user's pipes hold too much already
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def main() -> NoReturn:
    """Draw the rounds of the job on stdin, and write them to stdout."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    with suppress(EOFError, BrokenPipeError):  # the trainer has gone
        _work(pickle.loads(_read(*_NUMBER.unpack(_read(_NUMBER.size)))))  # noqa: S301  # our own
    os._exit(0)


def _work(job: _Job) -> None:
    """Write the rounds of a job, but none that the trainer has passed.

    Raises:
        EOFError: the trainer has ended.
        BrokenPipeError: the trainer has ended.

    """
    round = job.first
    while round <= job.last:
        content = draw(job.sampling, round).content
        check = zlib.crc32(content)
        _write(_FRAME.pack(job.sampling.key, round, len(content), check) + content)
        round = max(round + 1, _reached(0))
    while True:  # the trainer ends this process: if it ended by itself, it would be a zombie
        _reached(None)


def _reached(seconds: float | None) -> int:
    """Return the latest round on stdin, 0 without one. Wait for one so long; None is forever.

    Raises:
        EOFError: stdin has ended.

    """
    if not select.select([0], [], [], seconds)[0]:
        return 0
    numbers = os.read(0, 4096 * _NUMBER.size)
    if not numbers:
        raise EOFError
    return max(int(number) for (number,) in _NUMBER.iter_unpack(numbers))


def _read(length: int) -> bytes:
    """Read so many bytes of stdin.

    Raises:
        EOFError: stdin has ended.

    """
    content = bytearray()
    while len(content) < length:
        part = os.read(0, length - len(content))
        if not part:
            raise EOFError
        content += part
    return bytes(content)


def _write(content: bytes) -> None:
    """Write to stdout. Wait until the pipe has room."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(1, rest) :]
