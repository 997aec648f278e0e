"""Commands and workers with an output that is broken, narrow, or in another encoding."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedsweep import output
from fedsweep.actions.work import ended_line
from fedsweep.cli import work
from fedsweep.cli.console import console
from fedsweep.errors import OutputLost, ReaderGone
from fedsweep.plans import read_plan
from fedsweep.reports.fit import Column, Grid, pair_lines
from fedsweep.states import Outcome
from fedsweep.store import planning
from fedsweep.store.claim import Claim
from fedsweep.store.progress import SweepProgress
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import transaction
from fedsweep.worker import Ended, Slot, SlotProcess, Tally, WorkOptions, WorkStatus
from fedsweep.worker.watch import _Watch
from tests import study
from tests.acceptance.command import FEDSWEEP, at_once, environment, eventually, query, start
from tests.builders import TINY
from tests.shared import made_once
from tests.walk import SECONDS

HOSTILE = "[/old] :smile: [bold]ü⋆日本"
"""A text with rich's markup, an emoji code, and characters that encodings lack."""

READING = [
    ["status"],
    ["status", "--json"],
    *[["report", "--format", name] for name in ("table", "markdown", "csv", "json", "latex")],
    ["trial", "list"],
    ["trial", "show", "TRIAL"],
    ["trial", "logs", "TRIAL"],
    ["sweep", "list"],
    *[["sql", "SELECT * FROM results", "--format", f] for f in ("table", "csv", "json")],
    ["sql", "--recipes"],
    ["sql", "--recipe", "ledger", "--show"],
    ["db", "check"],
    ["--help"],
    ["trial", "cancel", "--help"],
    ["--version"],
]
PRINTING = [c for c in READING if c[0] in ("status", "report", "trial", "sweep", "sql")]
PRINTING = [c for c in PRINTING if c[1:2] not in (["--recipes"], ["--recipe"], ["cancel"])]
"""Commands that print free texts of the database."""
BROKEN = ("full", "gone", "closed", "latin-1")
UTF8 = ("csv", "markdown", "latex")
"""Formats that are UTF-8 in every locale."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database has the study, with a hostile text in every free text."""
    folder = tmp_path_factory.mktemp("hostile")
    store = open_store(f"sqlite:///{folder}/fedsweep.db", create=True)
    study.fill(store, folder)
    with transaction(store) as connection:
        for table, columns in {
            "sweeps": ["name"],
            "trials": ["error", "device"],
            "attempts": ["error", "device", "worker", "host", "traceback"],
        }.items():
            values = ", ".join(f"{column} = :text" for column in columns)
            connection.execute(sa.text(f"UPDATE {table} SET {values}"), {"text": HOSTILE})
        connection.execute(
            sa.text(
                "INSERT INTO logs (trial, fence, n, at, level, message) "
                "SELECT trial, fence, 1, 0.0, 'warning', :text FROM attempts"
            ),
            {"text": HOSTILE},
        )
    store.dispose()
    return folder


@pytest.fixture(scope="module")
def ends(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], dict[str, Any]]:
    """The result of every reading command on every broken output.

    It takes several seconds, so all processes of a run share it.
    """
    made = made_once(tmp_path_factory, "ends", lambda place: run_all(folder, place / "ends.json"))
    names = [(broken, *command) for command in READING for broken in BROKEN]
    return dict(zip(names, json.loads((made / "ends.json").read_text()), strict=True))


def run_all(folder: Path, results: Path) -> None:
    """Run every reading command on every broken output, and write the results to a file."""
    trial = query(f"sqlite:///{folder}/fedsweep.db", "SELECT trial_id FROM results")[0][0]
    cases = [
        ([trial if word == "TRIAL" else word for word in command], broken)
        for command in READING
        for broken in BROKEN
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.cli.outputs"],
        input=json.dumps(cases),
        env=environment(FEDSWEEP_DB=f"sqlite:///{folder}/fedsweep.db"),
        capture_output=True,
        text=True,
        check=True,
    )
    results.write_text(done.stdout)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_failing_output_ends_a_command_with_one_sentence_or_quietly(
    command: list[str], ends: dict[tuple[str, ...], dict[str, Any]]
) -> None:
    """A full disk is one sentence and exit code 1; an ended reader is exit code 141, silently."""
    full, gone, closed = (ends[broken, *command] for broken in ("full", "gone", "closed"))
    assert full["code"] == 1
    assert full["err"] == (
        "fedsweep: standard output cannot be written (No space left on device), so the output "
        "is incomplete: make room, or send it elsewhere\n"
    )
    assert (gone["code"], gone["err"]) == (141, "")
    assert (closed["code"], closed["err"]) == (0, "")


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_character_that_the_encoding_lacks_is_replaced(
    command: list[str], ends: dict[tuple[str, ...], dict[str, Any]]
) -> None:
    """It becomes an ASCII stand-in or an escape; formats for programs keep every character."""
    end = ends["latin-1", *command]
    assert (end["code"], end["err"]) == (0, "")
    if command[-1] in UTF8:
        text = bytes.fromhex(end["bytes"]).decode()
        assert "日本" in text
    elif command[-1] == "json" or "--json" in command:
        assert HOSTILE in json.dumps(json.loads(end["out"]), ensure_ascii=False)
    elif command[0] in ("status", "report", "sweep"):
        assert "⋆" not in end["out"]
        assert "*\\u65e5\\u672c" in "".join(end["out"].split())


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_texts_of_the_database_are_never_markup(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags and emoji codes in names, errors, hosts and logs are printed as they are."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    trial = query(f"sqlite:///{folder}/fedsweep.db", "SELECT trial_id FROM results")[0][0]
    words = [trial if word == "TRIAL" else word for word in command]
    printed = at_once(*words, cwd=folder).stdout
    if command == ["trial", "list"]:
        assert "finished" in printed
    elif command[-1] == "latex":
        assert ":smile:" in printed
    elif command[-1] in ("json", "--json"):
        assert HOSTILE in json.dumps(json.loads(printed), ensure_ascii=False)
    else:
        assert HOSTILE in " ".join(re.sub("\x1b\\[[0-9;]*m", "", printed).split())


def claim() -> Claim:
    config = {"normalizer": "bn", "rounds": 128, "seed": 0, "lr": 0.05, "alpha": 0.5}
    return Claim(1, "abcdef0123456789", 1, config, None, None, 0)


def progress(**more: Any) -> SweepProgress:
    counts = {"queued": 0, "running": 0, "finished": 1, "failed": 0, "cancelled": 0}
    rounds = {"rounds_done": 128, "rounds_total": 128, "seconds_left": None}
    return SweepProgress(sweep=HOSTILE, **{**counts, **rounds, **more})


def test_an_error_with_markup_does_not_end_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a failed trial is printed above the live view as it is."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    console.cache_clear()
    with contextlib.redirect_stdout(out), work._screen() as show:
        ended = Ended(0, claim(), Outcome.FAILED, None, 2.0, f"bad_data: {HOSTILE}")
        show(
            WorkStatus([Slot(0, SlotProcess(HOSTILE), claim=claim())], [progress()], Tally(), ended)
        )
    console.cache_clear()
    assert f"bad_data: {HOSTILE}" in out.getvalue()


# Streams.


@pytest.fixture
def stream() -> Iterator[Callable[[int], output.Stream]]:
    """Make streams of descriptors, which are closed at the end."""
    opened: list[int] = []

    def make(descriptor: int) -> output.Stream:
        opened.append(descriptor)
        return output.Stream(descriptor)

    yield make
    for descriptor in opened:
        os.close(descriptor)


def test_only_characters_that_the_encoding_lacks_get_stand_ins() -> None:
    """ASCII loses the letters that Latin-1 keeps, and no text raises an error."""
    text = "T⋆ ± ü \udc80"
    assert text.encode("ascii", output.ERRORS) == b"T* +/- \\xfc \\udc80"
    assert text.encode("latin-1", output.ERRORS) == b"T* \xb1 \xfc \\udc80"
    assert text.encode("utf-8", output.ERRORS) == "T⋆ ± ü \\udc80".encode()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_stored_as_a_failure(
    background: bool, stream: Callable[[int], output.Stream]
) -> None:
    """Neither the write nor the flush raises an error."""
    full = stream(os.open("/dev/full", os.O_WRONLY))
    if background:
        full.in_background()
    text = io.TextIOWrapper(io.BufferedWriter(full), line_buffering=True)
    print("lost", file=text)
    full.drain()
    assert full.failure is not None
    text.detach().detach()  # type: ignore[attr-defined]  # a buffer


def test_a_stopped_reader_does_not_stop_the_writer(
    stream: Callable[[int], output.Stream],
) -> None:
    """Lines above the bound are dropped, and their number is written later."""
    reader, writer = os.pipe()
    slow = stream(writer)
    slow.in_background()
    line = b"x" * 1023 + b"\n"
    for _ in range(3000):  # three times the bound; a blocked write would hang
        slow.write(line)
    received = b""
    while len(received) < output.PENDING_BYTES:
        received += os.read(reader, 1 << 16)
    slow.write(b"the end\n")
    while b"the end" not in received:
        received += os.read(reader, 1 << 16)
    os.close(reader)
    (count,) = re.findall(rb"\[(\d+) lines left out: nobody read them\]", received)
    assert received.count(line) + int(count) == 3000


def test_a_non_blocking_descriptor_loses_nothing(
    stream: Callable[[int], output.Stream],
) -> None:
    """The write waits for the reader, although another process made the pipe non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    child = os.fork()
    if not child:
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            os._exit(0 if len(file.read()) == 300_000 else 1)
    os.close(reader)
    fast = output.Stream(writer)
    assert fast.write(b"x" * 300_000) == 300_000
    assert fast.failure is None
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("error", "raised"), [(32, ReaderGone), (5, ReaderGone), (28, OutputLost), (27, OutputLost)]
)
def test_the_error_tells_an_ended_reader_from_a_lost_output(
    error: int, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed pipe and a closed terminal mean an ended reader; other errors mean a loss."""
    broken = output.Stream(1)
    broken.failure = OSError(error, os.strerror(error))
    monkeypatch.setitem(output._streams, "stdout", broken)
    with pytest.raises(raised):
        output.check()


# Tables.

WIDE = TINY.partition("[[grid]]")[0] + "".join(
    f"""
[[grid]]
normalizer = ["bn", "gn"]
lr = {lr}
weight_decay = {decay}
clip_norm = {clip}
participation = {part}
local_steps = {steps}
momentum = "{momentum}"
batch_size = {batch}
clients = {clients}
seed = [0, 1]
"""
    for lr, decay, clip, part, steps, momentum, batch, clients in (
        (0.01, 0.0, 0, 0.5, 1, "none", 4, 4),
        (0.05, 1e-4, 10, 1.0, 20, "local", 8, 5),
        (0.0625, 1e-3, 7.5, 0.75, 100, "global", 16, 12),
    )
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of eight varied axes, all trials finished with known accuracies."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "wide.toml").write_text(WIDE)
    store = open_store(f"sqlite:///{folder}/fedsweep.db", create=True)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(folder / "wide.toml"))
        connection.execute(
            sa.text(
                "UPDATE trials SET state = 'finished', final_round = 3, seconds = 12345.25, "
                "test_accuracy = (1234 + id) / 10000.0, test_loss = 1.0625"
            )
        )
    store.dispose()
    return folder


@pytest.mark.parametrize("width", [20, 45, 80, 200])
@pytest.mark.parametrize(
    ("command", "numbers"),
    [
        (["status"], r"12/12|36/36"),
        (["sweep", "list"], r"12/12|36/36"),
        (["trial", "list"], r"\d\d\.\d\d%|12345\.2|3/3"),
        (["report"], r"\d\d\.\d\d ± \d\.\d\d"),
        (
            ["report", "--baseline", "bn"],
            r"[+-]\d\.\d\d \(n=1\)|[+-]\d\.\d\d \[[^]]*\] p[=<][\d.]+",
        ),
        (["sql", "SELECT trial_id, test_accuracy, seconds FROM results LIMIT 3"], r"12345\.\d"),
        (["sql", "SELECT * FROM cells LIMIT 2"], r"0\.\d{3,6}"),
    ],
    ids=str,
)
def test_numbers_are_not_cut_at_any_width(
    command: list[str], numbers: str, width: int, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number of the widest table is on one line of every narrower table."""
    monkeypatch.setattr(
        "tests.acceptance.command.environment",
        lambda **more: environment(COLUMNS=str(more.get("COLUMNS", columns))),
    )
    columns = 10_000
    expected = re.findall(numbers, at_once(*command, cwd=wide).stdout)
    columns = width
    printed = at_once(*command, cwd=wide).stdout
    assert expected
    if width >= 45:
        assert sorted(re.findall(numbers, printed)) == sorted(expected)
        assert max(map(len, printed.splitlines())) <= width
    digits = set(re.findall(r"[\d.,]+", " ".join(expected)))
    assert digits <= set(re.findall(r"[\d.,]+", printed))
    assert "…" not in printed


def lines_of(shown: Any, width: int) -> list[str]:
    from fedsweep.cli.console import plain_console

    out = io.StringIO()
    plain_console(file=out, width=width).print(shown)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 30, 45, 80, 200])
def test_the_live_view_names_the_hidden_columns(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round and accuracy are not cut at any width, and hidden columns are named."""
    from fedsweep.cli.console import plain_console

    slot = Slot(0, SlotProcess("cuda:0"), claim=claim())
    view = WorkStatus([slot, Slot(1, SlotProcess("cuda:1"))], [progress(queued=5)], Tally())
    monkeypatch.setattr(work, "console", lambda: plain_console(width=width))
    lines = lines_of(work._frame(view), width)
    text = "\n".join(lines)
    assert "0/128" in text
    assert max(map(len, lines)) <= width
    for name in ("device", "trial", "what", "round", "accuracy", "rounds/s"):
        assert name in text
    assert ("left out:" in text) == (width in (30, 45))


def test_a_cut_text_ends_between_two_words() -> None:
    """A live view cuts a description, but not a number in it."""
    column = Column("what", left=True, least=lambda _: 24, elides=True)
    grid = Grid([column], [["bn α=0.5 E=20 lr=0.0625 seed=12"]], boxed=False)
    assert lines_of(grid.table(24), 24)[1].strip() == "bn α=0.5 E=20 …"


@pytest.mark.parametrize("width", [20, 45, 80])
def test_names_and_values_fit(width: int) -> None:
    """A value that does not fit next to its name has a line of its own."""
    pairs = [("mean_of_the_clients_test_accuracies", "0.9138888888888889"), ("n", "3")]
    for part in pair_lines(pairs, width):
        lines = lines_of(part, width)
        assert max(map(len, lines)) <= width
    text = "\n".join("\n".join(lines_of(part, width)) for part in pair_lines(pairs, width))
    assert "0.9138888888888889" in text or width == 20


# The end of a trial.


def ended_trial() -> Ended:
    return Ended(0, claim(), Outcome.FINISHED, None, 2.0)


def watch_of(url: str, shown: list[WorkStatus]) -> _Watch:
    return _Watch(WorkOptions(url), shown.append)


def test_an_end_is_shown_when_the_progress_counts_it(store_url: str, tiny: Path) -> None:
    """The line waits for the next read of the progress, which is rare for a large store."""
    store = open_store(store_url)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    shown: list[WorkStatus] = []
    watch = watch_of(store_url, shown)
    watch.upkeep.run()
    watch.upkeep.cost, watch.upkeep.due = 1.0, float("inf")
    with transaction(store) as connection:
        connection.execute(sa.text("UPDATE trials SET state = 'finished', final_round = 3"))
    slot = watch.slots[0]
    slot.claim = claim()
    watch.note(slot, ended_trial())
    assert not [view for view in shown if view.ended]
    watch.processes.clear()
    watch.slots.clear()
    watch.run()
    (view,) = [view for view in shown if view.ended]
    assert ended_line(view).endswith("[6/6, 0s left]")
    watch.engine.dispose()
    watch.boxes.cleanup()
    store.dispose()


# Workers.


def full() -> tuple[int, Callable[[], None]]:
    """Return a full disk."""
    return os.open("/dev/full", os.O_WRONLY), lambda: None


def gone() -> tuple[int, Callable[[], None]]:
    """Return a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer, lambda: None


def stopped() -> tuple[int, Callable[[], None]]:
    """Return a full pipe whose reader does not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    return writer, lambda: os.close(reader)


def dead_terminal() -> tuple[int, Callable[[], None]]:
    """Return a terminal whose other end is closed."""
    main_end, terminal = pty.openpty()
    os.close(main_end)
    return terminal, lambda: None


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize(
    "make",
    [full, *(pytest.param(m, marks=pytest.mark.slow) for m in (gone, stopped, dead_terminal))],
)
def test_a_worker_goes_on_if_its_output_fails(
    make: Callable[[], tuple[int, Callable[[], None]]], sqlite_url: str, tiny: Path
) -> None:
    """Every trial is trained, and the exit code is 0, although both streams fail."""
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "seed=0")
    descriptor, close = make()
    run = [*FEDSWEEP, "work", "--db", sqlite_url, "--device", "cpu", "--until-empty"]
    env = environment(PYTHONIOENCODING="latin-1", TERM="xterm")
    done = subprocess.run(run, env=env, stdout=descriptor, stderr=descriptor, check=False)
    os.close(descriptor)
    close()
    assert done.returncode == 0
    states = query(sqlite_url, "SELECT state, attempts FROM results")
    assert states == [("finished", 1)] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("walk_in_test")
def test_a_worker_goes_on_with_closed_streams(sqlite_url: str, tiny: Path) -> None:
    """No file of the worker takes the number of a closed stream."""
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "seed=0")
    run = [*FEDSWEEP, "work", "--db", sqlite_url, "--device", "cpu", "--until-empty"]
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *run]
    assert subprocess.run(shell, env=environment(), check=False).returncode == 0
    assert query(sqlite_url, "SELECT state, attempts FROM results") == [("finished", 1)] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize("nohup", [False, True], ids=["plain", "nohup"])
def test_a_closed_terminal_does_not_lose_a_trial(nohup: bool, sqlite_url: str, tiny: Path) -> None:
    """The worker saves the round and gives the trial back, and with nohup it goes on."""
    many = 150 if nohup else 100_000  # so many that a round is left when the terminal is closed
    change = ["seed=0", "normalizer=bn", f"rounds={many}"]
    at_once("plan", str(tiny), "--db", sqlite_url, *(f"--set={text}" for text in change))
    main_end, terminal = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        # The tests themselves may run under nohup.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    worker = subprocess.Popen(
        [*FEDSWEEP, "work", "--db", sqlite_url, "--device", "cpu", "--until-empty"],
        env=environment(TERM="xterm", **{SECONDS: "0.02"}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=own_terminal,  # noqa: PLW1509  # nothing else runs in this process
    )
    os.close(terminal)
    eventually(lambda: query(sqlite_url, "SELECT * FROM curves LIMIT 1"))
    os.close(main_end)
    assert worker.wait(120) == 0
    ((state, rounds),) = query(sqlite_url, "SELECT state, final_round FROM results")
    outcomes = query(sqlite_url, "SELECT outcome, rounds_lost FROM attempts")
    if nohup:
        assert (state, rounds, outcomes) == ("finished", many, [("finished", 0)])
    else:
        assert state == "queued"
        assert outcomes == [("released", 0)]
        assert 0 < rounds < many


@pytest.mark.slow
@pytest.mark.parametrize("command", [["status", "--watch"]])
def test_a_watch_ends_with_its_reader(command: list[str], sqlite_url: str, tiny: Path) -> None:
    """In a pipe it prints each update, and ends quietly after the reader has ended."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    watch = start(*command, FEDSWEEP_DB=sqlite_url)
    assert watch.stdout is not None
    while "tiny" not in watch.stdout.readline():
        pass
    watch.stdout.close()
    assert watch.wait(60) == 141


@pytest.mark.parametrize(
    ("piped", "terminal", "width"),
    [
        (True, 2, 80),
        (True, 0, 80),
        (True, None, 160),
        (False, 2, 160),
    ],
)
def test_a_pipe_has_the_width_of_the_terminal_that_shows_it(
    piped: bool, terminal: int | None, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`report | less` fits the terminal on stderr or stdin; a file has the wide layout."""

    def size(descriptor: int) -> os.terminal_size:
        if descriptor != terminal:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return os.terminal_size((80, 24))

    reader, writer = os.pipe()
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", size)
    console.cache_clear()
    with os.fdopen(reader), os.fdopen(writer, "w") as pipe, (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(sys, "stdout", pipe if piped else file)
        try:
            assert console().width == width
        finally:
            console.cache_clear()
