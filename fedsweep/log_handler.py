"""Log handler of an attempt: it keeps log lines until the attempt's next write stores them.

It keeps the lines of fedsweep, the trainers and Python's warnings, and the lines of other loggers
at WARNING and above. Their number and length are limited.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
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


class LogHandler(logging.Handler):
    """A handler of the root logger, as a context. Output that reached stderr before still does."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self._lines: list[Line] = []
        self._count = 0
        self._dropped: Line | None = None
        self._filters = warnings.catch_warnings()
        self._before: list[tuple[logging.Logger, int]] = []
        self._printer: logging.Handler | None = None

    def __enter__(self) -> Self:
        self._filters.__enter__()  # a warning is logged once per attempt, not once per process
        logging.captureWarnings(True)
        root = logging.getLogger()
        if not root.handlers:
            self._printer = _Printer()
            root.addHandler(self._printer)
        root.addHandler(self)
        ours = [logging.getLogger(name) for name in OWN_LOGGERS]
        self._before = [(logger, logger.level) for logger in ours]
        for logger in ours:
            logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        return self

    def __exit__(self, *_: object) -> None:
        for logger, level in self._before:
            logger.setLevel(level)
        root = logging.getLogger()
        root.removeHandler(self)
        if self._printer is not None:
            root.removeHandler(self._printer)
        logging.captureWarnings(False)
        self._filters.__exit__(None, None, None)

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
