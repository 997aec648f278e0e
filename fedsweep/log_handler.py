"""Log handler of an attempt: it keeps log lines until the attempt's next write stores them.

It keeps the lines of fedsweep, the trainers and Python's warnings, and the lines of other loggers
at WARNING and above. Their number and length are limited. If other threads of the process make
attempts at the same time, their lines are not kept.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Self, TextIO

from fedsweep.errors import hide_secrets, legible

KEPT_LINES = 1000
"""Lines that are kept of one attempt, at most."""
LINE_LENGTH = 2000
"""Characters of a line, at most."""
OWN_LOGGERS = ("fedsweep", "trainers")
"""The loggers whose INFO is kept too."""
WARNINGS = "py.warnings"
"""The logger that `logging.captureWarnings` uses."""


@dataclass(frozen=True)
class Line:
    """One line of an attempt's log."""

    n: int
    """Its number in the attempt, from 1."""
    at: float
    """Its time in wall-clock seconds."""
    level: str
    """Its level in Python's logging, in lower case; "stderr" for the last words of a process."""
    message: str


class _Logging:
    """The process's logging while attempts are made, in one thread or in several.

    It is set up when the first attempt begins, and restored when the last one ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[LogHandler, int] = {}
        """The handlers of the attempts that are made now, with the threads that make them."""
        self._before = ExitStack()
        """The settings from before the first attempt."""

    def add(self, handler: LogHandler) -> None:
        """Pass records to the handler of an attempt that the current thread makes."""
        with self._lock:
            if not self._handlers:
                self._set_up()
            else:
                with warnings.catch_warnings():
                    pass  # the end of this context lets each warning be logged again
            self._handlers[handler] = threading.get_ident()
            logging.getLogger().addHandler(handler)

    def remove(self, handler: LogHandler) -> None:
        """Pass no more records to a handler."""
        with self._lock:
            logging.getLogger().removeHandler(handler)
            del self._handlers[handler]
            if not self._handlers:
                self._before.close()

    def is_others(self, record: logging.LogRecord, handler: LogHandler) -> bool:
        """Return whether a record is of a thread that makes another attempt."""
        threads = self._handlers.copy()
        return record.thread != threads.get(handler) and record.thread in threads.values()

    def _set_up(self) -> None:
        with ExitStack() as before:
            # A warning is logged once per attempt, not once per process.
            before.enter_context(warnings.catch_warnings())
            before.callback(logging.captureWarnings, False)
            logging.captureWarnings(True)
            root = logging.getLogger()
            if not root.handlers:
                printer = _Printer()
                root.addHandler(printer)
                before.callback(root.removeHandler, printer)
            for name in OWN_LOGGERS:
                logger = logging.getLogger(name)
                before.callback(logger.setLevel, logger.level)
                logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
            self._before = before.pop_all()


_logging = _Logging()


class LogHandler(logging.Handler):
    """A handler of the root logger, as a context. Output that reached stderr before still does.

    A record of a thread that makes no attempt is kept in the lines of all attempts, because nobody
    knows which of them it belongs to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self._lines: list[Line] = []
        self._count = 0
        self._dropped: Line | None = None

    def __enter__(self) -> Self:
        _logging.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _logging.remove(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep a record: not if another thread's attempt logs it."""
        return bool(super().filter(record)) and not _logging.is_others(record, self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the lines of a record."""
        foreign = record.name.partition(".")[0] not in (*OWN_LOGGERS, "py")
        if foreign and record.levelno < logging.WARNING:
            return
        try:
            text = hide_secrets(self.format(record))
        except Exception:  # noqa: BLE001  # a malformed record of other code must not fail the trial
            self.handleError(record)
            return
        level = record.levelname.lower()
        for line in filter(str.strip, text.splitlines()):
            self._note(record.created, level, f"{record.name}: {line}" if foreign else line)

    def note(self, level: str, message: str) -> None:
        """Keep a line without passing it to other handlers, because it is reported elsewhere."""
        self.acquire()
        try:
            self._note(time.time(), level, hide_secrets(message))
        finally:
            self.release()

    def _note(self, at: float, level: str, message: str) -> None:
        self._count += 1
        if self._count <= KEPT_LINES:
            self._lines.append(Line(self._count, at, level, cut(message)))
            return
        dropped = self._count - KEPT_LINES
        self._dropped = Line(KEPT_LINES + 1, at, "warning", f"{dropped} more lines were dropped")

    def unstored(self) -> list[Line]:
        """Return the lines that are not stored yet.

        The last one may be the count of dropped lines. Its number stays the same, so that a new
        count replaces the stored one.
        """
        self.acquire()
        try:
            return self._lines + ([self._dropped] if self._dropped else [])
        finally:
            self.release()

    def forget(self, stored: Sequence[Line]) -> None:
        """Remove lines that are stored."""
        self.acquire()
        try:
            last = stored[-1].n if stored else 0
            self._lines = [line for line in self._lines if line.n > last]
            if self._dropped in stored:
                self._dropped = None
        finally:
            self.release()


class _Printer(logging.StreamHandler[TextIO]):
    """The output of Python without any handler: WARNING and above are printed to stderr.

    A warning is printed once per process, even if the process makes many attempts.
    """

    printed: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != WARNINGS:
            return True
        text = record.getMessage()
        new = text not in self.printed
        self.printed.add(text)
        return new


def cut(message: str) -> str:
    """Return a message as a line that can be stored, clipped to LINE_LENGTH characters."""
    message = legible(message)
    return message if len(message) <= LINE_LENGTH else message[: LINE_LENGTH - 2] + " …"
