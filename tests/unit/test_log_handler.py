"""Log lines that are kept during an attempt."""

from __future__ import annotations

import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.filterwarnings("default")
def test_two_attempts_at_the_same_time_keep_the_lines_of_their_own_threads() -> None:
    """The first one to begin is the first one to end. The loggers are restored after both."""
    log = logging.getLogger("fedsweep")
    showwarning, handlers = warnings.showwarning, list(logging.getLogger().handlers)
    both, first_ended = threading.Barrier(3, timeout=60), threading.Event()

    def speak(name: str, time: str) -> None:
        log.info("%s of %s", time, name)
        warnings.warn(f"{time} warning of {name}", stacklevel=1)

    def attempt(name: str) -> list[str]:
        if name == "b":
            both.wait()  # a has begun
        with LogHandler() as handler:
            if name == "a":
                both.wait()
            both.wait()  # both have begun
            speak(name, "middle")
            both.wait()
            both.wait()  # a thread without an attempt has logged a line
            if name == "b":
                assert first_ended.wait(60)
                speak(name, "end")
        if name == "a":
            first_ended.set()
        return [message.rpartition("Warning: ")[2] for _, message in lines_of(handler)]

    with ThreadPoolExecutor() as threads:
        a, b = threads.submit(attempt, "a"), threads.submit(attempt, "b")
        both.wait()
        both.wait()
        both.wait()
        log.info("of neither")
        both.wait()
        kept = [
            [line for line in ended.result(60) if "warn(" not in line]  # the line of the code
            for ended in (a, b)
        ]
    assert kept == [
        ["middle of a", "middle warning of a", "of neither"],
        ["middle of b", "middle warning of b", "of neither", "end of b", "end warning of b"],
    ]
    assert log.level == logging.NOTSET
    assert warnings.showwarning is showwarning
    assert logging.getLogger().handlers == handlers


def test_the_levels_of_loggers_are_restored_only_after_the_last_attempt() -> None:
    """The attempts may end in any order."""
    log = logging.getLogger("fedsweep")
    first, second = LogHandler(), LogHandler()
    with first:
        second.__enter__()
    log.info("still kept")
    second.__exit__()
    assert lines_of(second) == [("info", "still kept")]
    assert lines_of(first) == []
    assert log.level == logging.NOTSET
