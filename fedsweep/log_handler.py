"""What is said during an attempt: by fedsweep, the trainers, Python's warnings, and, at WARNING and
above, by anyone. It is kept within bounds, to be stored with the attempt's next write.
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

LINES = 1000
"""Lines that are kept of one attempt."""
LINE = 2000
"""Characters of a line."""
OURS = ("fedsweep", "trainers")
"""The loggers whose INFO is kept too."""
WARNINGS = "py.warnings"
"""The logger that `logging.captureWarnings` uses."""


@dataclass(frozen=True)
class Line:
    """One line of an attempt's log."""

    n: int
    """Its place, from 1."""
    at: float
    """Wall-clock seconds."""
    level: str
    """Of Python's logging, in small letters; "stderr" for the last words of a process."""
    message: str


class LogHandler(logging.Handler):
    """Listens while it is entered. What would have reached stderr still does."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self._lines: list[Line] = []
        self._heard = 0
        self._dropped: Line | None = None
        self._filters = warnings.catch_warnings()
        self._before: list[tuple[logging.Logger, int]] = []
        self._aloud: logging.Handler | None = None

    def __enter__(self) -> Self:
        self._filters.__enter__()  # each attempt sees a warning once, not each process
        logging.captureWarnings(True)
        root = logging.getLogger()
        if not root.handlers:
            self._aloud = _Aloud()
            root.addHandler(self._aloud)
        root.addHandler(self)
        ours = [logging.getLogger(name) for name in OURS]
        self._before = [(logger, logger.level) for logger in ours]
        for logger in ours:
            logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        return self

    def __exit__(self, *_: object) -> None:
        for logger, level in self._before:
            logger.setLevel(level)
        root = logging.getLogger()
        root.removeHandler(self)
        if self._aloud is not None:
            root.removeHandler(self._aloud)
        logging.captureWarnings(False)
        self._filters.__exit__(None, None, None)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, each of its lines."""
        foreign = record.name.partition(".")[0] not in (*OURS, "py")
        if foreign and record.levelno < logging.WARNING:
            return
        try:
            text = hide_secrets(self.format(record))
        except Exception:  # noqa: BLE001  # a malformed record of anyone must not cost the trial
            self.handleError(record)
            return
        level = record.levelname.lower()
        for line in filter(str.strip, text.splitlines()):
            self._note(record.created, level, f"{record.name}: {line}" if foreign else line)

    def note(self, level: str, message: str) -> None:
        """Keep a line that is told elsewhere as well: it goes to no other listener."""
        self.acquire()
        try:
            self._note(time.time(), level, hide_secrets(message))
        finally:
            self.release()

    def _note(self, at: float, level: str, message: str) -> None:
        self._heard += 1
        if self._heard <= LINES:
            self._lines.append(Line(self._heard, at, level, cut(message)))
            return
        count = self._heard - LINES
        self._dropped = Line(LINES + 1, at, "warning", f"{count} more lines were dropped")

    def unstored(self) -> list[Line]:
        """What is to be stored. The count of dropped lines has one place, and is written over."""
        self.acquire()
        try:
            return self._lines + ([self._dropped] if self._dropped else [])
        finally:
            self.release()

    def forget(self, stored: Sequence[Line]) -> None:
        """These are stored."""
        self.acquire()
        try:
            last = stored[-1].n if stored else 0
            self._lines = [line for line in self._lines if line.n > last]
            if self._dropped in stored:
                self._dropped = None
        finally:
            self.release()


class _Aloud(logging.StreamHandler[TextIO]):
    """What Python does where nobody listens: WARNING and above go to stderr.

    A warning is said once in a process, however many attempts it makes.
    """

    said: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != WARNINGS:
            return True
        text = record.getMessage()
        new = text not in self.said
        self.said.add(text)
        return new


def cut(message: str) -> str:
    """A message as a line that can be stored."""
    message = legible(message)
    return message if len(message) <= LINE else message[: LINE - 2] + " …"
