"""What is said during an attempt."""

from __future__ import annotations

import logging
import warnings

import pytest

from fedsweep import log_handler
from fedsweep.log_handler import LINE, LINES, LogHandler


def said(book: LogHandler) -> list[tuple[str, str]]:
    return [(line.level, line.message) for line in book.unstored()]


@pytest.mark.filterwarnings("default")
def test_ours_python_s_warnings_and_what_others_warn_of_are_kept() -> None:
    """Others' INFO is not; nor is anything after it is left, and the loggers are as before."""
    with LogHandler() as book:
        logging.getLogger("fedsweep").info("a round of %d", 7)
        logging.getLogger("trainers.cache").info("decoded")
        logging.getLogger("urllib3").info("connected")
        logging.getLogger("urllib3").warning("retrying\nonce more")
        warnings.warn("this will be slow", stacklevel=1)
    logging.getLogger("fedsweep").warning("too late")
    kept = said(book)
    assert kept[:4] == [
        ("info", "a round of 7"),
        ("info", "decoded"),
        ("warning", "urllib3: retrying"),
        ("warning", "urllib3: once more"),
    ]
    assert kept[4][1].endswith("UserWarning: this will be slow")
    assert "too late" not in str(kept)
    assert logging.getLogger("fedsweep").level == logging.NOTSET
    assert [line.n for line in book.unstored()] == list(range(1, len(kept) + 1))


@pytest.mark.filterwarnings("default")
def test_each_attempt_keeps_a_warning_but_a_process_says_it_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have reached the terminal without it still does; of our INFO nothing."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(log_handler._Printer, "printed", set())
    for _ in range(2):
        with LogHandler() as book:
            logging.getLogger("fedsweep").info("quiet")
            logging.getLogger("fedsweep").warning("each time")
            warnings.warn("slow", stacklevel=1)
        assert [level for level, _ in said(book)][:3] == ["info", "warning", "warning"]
        assert "slow" in str(said(book))
    terminal = capsys.readouterr().err
    assert terminal.count("each time") == 2
    assert terminal.count("UserWarning: slow") == 1
    assert "quiet" not in terminal
    assert logging.getLogger().handlers == []


def test_it_is_bounded_and_says_how_much_it_dropped() -> None:
    """In one line, that is written over when it grows."""
    with LogHandler() as book:
        log = logging.getLogger("fedsweep")
        for i in range(LINES + 2):
            log.info("line %d", i)
        log.info("x" * (LINE + 1))
        stored = book.unstored()
        assert [line.n for line in stored] == list(range(1, LINES + 2))
        assert stored[-1].message == "3 more lines were dropped"
        book.forget(stored)
        assert book.unstored() == []
        log.info("one more")
        (last,) = book.unstored()
        assert (last.n, last.message) == (LINES + 1, "4 more lines were dropped")
    with LogHandler() as book:
        logging.getLogger("fedsweep").info("x" * (LINE + 1))
    ((_, cut),) = said(book)
    assert len(cut) == LINE
    assert cut.endswith("x …")


def test_what_was_said_while_it_was_stored_is_not_forgotten() -> None:
    """A transaction stores what there was when it began."""
    with LogHandler() as book:
        book.note("info", "first")
        stored = book.unstored()
        book.note("info", "second")
        book.forget(stored)
        assert [(line.n, line.message) for line in book.unstored()] == [(2, "second")]


def test_secrets_and_what_no_database_takes_are_not_kept() -> None:
    """Postgres refuses NUL, and so would lose the rounds that are stored with it."""
    with LogHandler() as book:
        log = logging.getLogger("fedsweep")
        log.info("postgresql://me:hush@host/x token=%s", "abc")
        odd = "a\x00b \x1b[31mred \ud800 end"  # past pytest's own listeners, who cannot send it on
        book.handle(log.makeRecord(log.name, logging.INFO, __file__, 1, odd, (), None))
        book.note("error", "password=hush")
    assert [message for _, message in said(book)] == [
        "postgresql://me:***@host/x token=***",
        "a\ufffdb \ufffd[31mred ? end",
        "password=***",
    ]


def test_a_record_that_cannot_be_formatted_costs_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a bug of whoever said it; Python says so, on stderr."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with LogHandler() as book:
        logging.getLogger("urllib3").warning("%d", "three")
    assert said(book) == []
    assert "Logging error" in capsys.readouterr().err
