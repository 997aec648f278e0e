"""Log lines that are kept during an attempt."""

from __future__ import annotations

import logging
import warnings

import pytest

from fedsweep import log_handler
from fedsweep.log_handler import KEPT_LINES, LINE_LENGTH, LogHandler


def lines_of(handler: LogHandler) -> list[tuple[str, str]]:
    return [(line.level, line.message) for line in handler.unstored()]


@pytest.mark.filterwarnings("default")
def test_our_lines_and_all_warnings_are_kept() -> None:
    """INFO of other packages is not kept. After the context the loggers are as before."""
    with LogHandler() as handler:
        logging.getLogger("fedsweep").info("a round of %d", 7)
        logging.getLogger("trainers.cache").info("decoded")
        logging.getLogger("urllib3").info("connected")
        logging.getLogger("urllib3").warning("retrying\nonce more")
        warnings.warn("this will be slow", stacklevel=1)
    logging.getLogger("fedsweep").warning("too late")
    kept = lines_of(handler)
    assert kept[:4] == [
        ("info", "a round of 7"),
        ("info", "decoded"),
        ("warning", "urllib3: retrying"),
        ("warning", "urllib3: once more"),
    ]
    assert kept[4][1].endswith("UserWarning: this will be slow")
    assert "too late" not in str(kept)
    assert logging.getLogger("fedsweep").level == logging.NOTSET
    assert [line.n for line in handler.unstored()] == list(range(1, len(kept) + 1))


@pytest.mark.filterwarnings("default")
def test_a_warning_is_kept_per_attempt_and_printed_once_per_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal gets the same output as without the handler, and no INFO of ours."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(log_handler._Printer, "printed", set())
    for _ in range(2):
        with LogHandler() as handler:
            logging.getLogger("fedsweep").info("quiet")
            logging.getLogger("fedsweep").warning("each time")
            warnings.warn("slow", stacklevel=1)
        assert [level for level, _ in lines_of(handler)][:3] == ["info", "warning", "warning"]
        assert "slow" in str(lines_of(handler))
    terminal = capsys.readouterr().err
    assert terminal.count("each time") == 2
    assert terminal.count("UserWarning: slow") == 1
    assert "quiet" not in terminal
    assert logging.getLogger().handlers == []


def test_dropped_lines_are_counted() -> None:
    """The number of lines is limited. One more line has the count, and is replaced."""
    with LogHandler() as handler:
        log = logging.getLogger("fedsweep")
        for i in range(KEPT_LINES + 2):
            log.info("line %d", i)
        log.info("x" * (LINE_LENGTH + 1))
        stored = handler.unstored()
        assert [line.n for line in stored] == list(range(1, KEPT_LINES + 2))
        assert stored[-1].message == "3 more lines were dropped"
        handler.forget(stored)
        assert handler.unstored() == []
        log.info("one more")
        (last,) = handler.unstored()
        assert (last.n, last.message) == (KEPT_LINES + 1, "4 more lines were dropped")
    with LogHandler() as handler:
        logging.getLogger("fedsweep").info("x" * (LINE_LENGTH + 1))
    ((_, cut),) = lines_of(handler)
    assert len(cut) == LINE_LENGTH
    assert cut.endswith("x …")


def test_lines_that_arrive_during_a_commit_are_kept() -> None:
    """A transaction stores the lines from before its beginning."""
    with LogHandler() as handler:
        handler.note("info", "first")
        stored = handler.unstored()
        handler.note("info", "second")
        handler.forget(stored)
        assert [(line.n, line.message) for line in handler.unstored()] == [(2, "second")]


def test_secrets_and_characters_that_no_database_accepts_are_not_kept() -> None:
    """Postgres refuses NUL, and would refuse the rounds of the same transaction too."""
    with LogHandler() as handler:
        log = logging.getLogger("fedsweep")
        log.info("postgresql://me:hush@host/x token=%s", "abc")
        odd = "a\x00b \x1b[31mred \ud800 end"  # pytest's own handlers cannot encode it
        handler.handle(log.makeRecord(log.name, logging.INFO, __file__, 1, odd, (), None))
        handler.note("error", "password=hush")
    assert [message for _, message in lines_of(handler)] == [
        "postgresql://me:***@host/x token=***",
        "a\ufffdb \ufffd[31mred ? end",
        "password=***",
    ]


def test_a_record_that_cannot_be_formatted_is_ignored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a bug of the calling code, which Python reports on stderr."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with LogHandler() as handler:
        logging.getLogger("urllib3").warning("%d", "three")
    assert lines_of(handler) == []
    assert "Logging error" in capsys.readouterr().err
