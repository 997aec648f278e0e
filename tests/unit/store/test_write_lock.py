"""Writers to SQLite wait for their turn, and it never stands in anybody's way."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import StoreBusy, StoreReadOnly
from fedsweep.store import write_lock
from fedsweep.store.outage import OUTAGE
from fedsweep.store.schema import open_store
from fedsweep.store.tables import sweeps
from fedsweep.store.transactions import transaction
from fedsweep.store.write_lock import hold_write_lock
from tests.acceptance.command import eventually

HOLDER = """
import sys, time
from pathlib import Path
from fedsweep.store.write_lock import hold_write_lock
with hold_write_lock(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fedsweep.db"


@pytest.fixture
def store(file: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{file}", create=True)
    yield engine
    engine.dispose()


@pytest.fixture
def holder(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which keeps the turn."""
    call = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def is_free(file: Path) -> bool:
    with Path(f"{file}-turn").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def write(store: Engine, name: str) -> None:
    with transaction(store) as c:
        c.execute(sa.insert(sweeps).values(name=name, created_at=0.0))


def names(store: Engine) -> list[str]:
    with store.connect() as c:
        return list(c.execute(sa.select(sweeps.c.name)).scalars())


def test_a_transaction_holds_the_turn_to_its_end(file: Path, store: Engine) -> None:
    with transaction(store):
        assert not is_free(file)
    assert is_free(file)


def test_a_transaction_that_fails_lets_go_of_the_turn(file: Path, store: Engine) -> None:
    with pytest.raises(ZeroDivisionError), transaction(store):
        _ = 1 / 0
    assert is_free(file)


def test_a_later_writer_waits_until_the_turn_is_free(
    store: Engine, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_lock, "TURN_SECONDS", 3600.0)
    writer = threading.Thread(target=write, args=(store, "late"))
    writer.start()
    assert names(store) == []
    holder.send_signal(signal.SIGKILL)  # a process that dies frees its lock
    writer.join(60)
    assert names(store) == ["late"]


def test_nobody_waits_for_ever_behind_a_stopped_process(
    file: Path,
    store: Engine,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_lock, "TURN_SECONDS", 0.05)
    holder.send_signal(signal.SIGSTOP)
    write(store, "first")
    write(store, "second")
    assert names(store) == ["first", "second"]
    holder.send_signal(signal.SIGKILL)
    eventually(lambda: is_free(file))  # what was waited for in vain is given back when it comes
    with hold_write_lock(file):
        assert not is_free(file)


def test_a_folder_that_cannot_be_written_has_no_turns(tmp_path: Path) -> None:
    with hold_write_lock(tmp_path / "no" / "such" / "fedsweep.db"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_is_still_said_to_be_one(file: Path, store: Engine) -> None:
    file.chmod(0o444)
    with pytest.raises(StoreReadOnly):
        write(store, "never")


# Who can hold the lock

STRANGER = 65534
"""A user that owns nothing here."""

READER = """
import fcntl, os, sys, time
sys.path[:] = [entry for entry in sys.path if entry]
held = []
for path in sys.argv[1:]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(descriptor)
    except OSError:
        pass
print(len(held), flush=True)
time.sleep(3600)
"""
"""A process that holds a lock on each file that it can open for reading, and says how many."""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can enter and read."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def reading_user(*files: Path) -> Iterator[int]:
    """Let another user lock all of the files that it can open; give the number of those."""
    call = ["/usr/bin/env", "python3", "-I", "-c", READER, *map(str, files)]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, text=True, user=STRANGER, group=STRANGER, extra_groups=[]
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # it lists its own descriptor too


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("before", [None, 0o644])
def test_a_user_who_can_only_read_holds_up_no_writer(before: int | None, public: Path) -> None:
    """Neither a new turn file nor one that an earlier version made is open to that user."""
    file = public / "fedsweep.db"
    engine = open_store(f"sqlite:///{file}", create=True)
    file.chmod(0o644)
    lock = Path(f"{file}-turn")
    if before is not None:
        lock.unlink(missing_ok=True)
        lock.touch()
        lock.chmod(before)
    with reading_user(lock) as held:
        assert held == (before is not None)
        threads, descriptors = threading.active_count(), open_descriptors()
        for i in range(20):
            with hold_write_lock(file):
                assert not is_free(file)  # it is held, not left out
            write(engine, f"sweep {i}")
        assert threading.active_count() == threads
        assert open_descriptors() <= descriptors + 4  # of the database's own connection
    assert len(names(engine)) == 20
    assert lock.stat().st_mode & 0o777 == 0o600
    engine.dispose()


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o600, 0o600), (0o644, 0o600), (0o664, 0o660), (0o666, 0o666)]
)
def test_the_turn_file_is_open_to_those_who_can_write_the_database(
    mode: int, expected: int, file: Path, store: Engine
) -> None:
    """A lab that shares a database shares its turns, with any umask."""
    file.chmod(mode)
    lock = Path(f"{file}-turn")
    lock.unlink(missing_ok=True)
    before = os.umask(0o077)
    try:
        write(store, "sweep")
    finally:
        os.umask(before)
    assert lock.stat().st_mode & 0o777 == expected
    inode = lock.stat().st_ino
    write(store, "another")
    assert lock.stat().st_ino == inode


def test_a_turn_file_that_leads_elsewhere_is_replaced(
    file: Path, store: Engine, tmp_path: Path
) -> None:
    """A planted link changes no other file."""
    precious, lock = tmp_path / "precious", Path(f"{file}-turn")
    precious.write_bytes(b"keep")
    mode = precious.stat().st_mode
    lock.unlink(missing_ok=True)
    lock.symlink_to(precious)
    with hold_write_lock(file):
        assert not lock.is_symlink()
        assert not is_free(file)
    assert (precious.read_bytes(), precious.stat().st_mode) == (b"keep", mode)


def test_waiting_in_vain_leaks_neither_threads_nor_descriptors(
    file: Path,
    store: Engine,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread waits with one descriptor, however many writes give up."""
    monkeypatch.setattr(write_lock, "TURN_SECONDS", 0.05)
    holder.send_signal(signal.SIGSTOP)
    write(store, "first")
    threads, descriptors = threading.active_count(), open_descriptors()
    for i in range(50):
        write(store, f"sweep {i}")
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors
    holder.send_signal(signal.SIGKILL)
    eventually(lambda: is_free(file))
    with hold_write_lock(file):
        assert not is_free(file)
    eventually(lambda: open_descriptors() < descriptors)  # the waiting thread closes its own


def test_a_long_run_of_writes_lets_other_processes_run(
    file: Path, store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up the processor when the lock is free, and not after each write."""
    yields: list[float] = []
    begun = time.monotonic()

    def note_yield() -> None:
        assert is_free(file)
        yields.append(now)

    monkeypatch.setattr(write_lock.time, "monotonic", lambda: now)
    monkeypatch.setattr(write_lock, "_yield_processor", note_yield)
    now = begun = begun + 60.0  # long after the last write
    for _ in range(5):
        with hold_write_lock(file):
            now += 0.6 * write_lock.RUN_SECONDS
    assert yields == pytest.approx([begun + n * 0.6 * write_lock.RUN_SECONDS for n in (1, 3, 5)])


def test_threads_of_a_process_take_turns(file: Path, store: Engine) -> None:
    """Each of them writes, and nothing is left behind."""
    write(store, "first")
    descriptors = open_descriptors()

    def write_ten(number: int) -> None:
        for i in range(10):
            with hold_write_lock(file):
                assert not is_free(file)
            write(store, f"{number}-{i}")

    threads = [threading.Thread(target=write_ten, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(names(store)) == 61
    store.dispose()
    assert open_descriptors() <= descriptors


# Descriptors


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Take all descriptors of this process that are left, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_writer_without_descriptors_says_so_and_recovers(store_url: str) -> None:
    """On both databases that is an outage, which a worker waits out."""
    engine = open_store(store_url)
    write(engine, "before")
    engine.dispose()
    with without_descriptors():
        with pytest.raises(StoreBusy, match=r"cannot be opened: too many files .*ulimit -n"):
            write(engine, "without")
        assert issubclass(StoreBusy, OUTAGE)
    write(engine, "after")
    assert sorted(names(engine)) == ["after", "before"]
    engine.dispose()
