"""Writers to SQLite wait for their turn, and it never stands in anybody's way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import StoreReadOnly
from fedsweep.store import turns
from fedsweep.store.engine import transaction
from fedsweep.store.schema import open_store
from fedsweep.store.tables import sweeps
from fedsweep.store.turns import turn
from tests.acceptance.command import eventually

HOLDER = """
import sys, time
from pathlib import Path
from fedsweep.store.turns import turn
with turn(Path(sys.argv[1])):
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


def test_whoever_comes_later_waits_until_the_turn_is_free(
    store: Engine, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 3600.0)
    writer = threading.Thread(target=write, args=(store, "late"))
    writer.start()
    assert names(store) == []
    holder.send_signal(signal.SIGKILL)  # whoever dies lets go
    writer.join(60)
    assert names(store) == ["late"]


def test_nobody_waits_for_ever_behind_a_stopped_process(
    file: Path,
    store: Engine,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.05)
    holder.send_signal(signal.SIGSTOP)
    write(store, "first")
    write(store, "second")
    assert names(store) == ["first", "second"]
    holder.send_signal(signal.SIGKILL)
    eventually(lambda: is_free(file))  # what was waited for in vain is given back when it comes
    with turn(file):
        assert not is_free(file)


def test_a_folder_that_cannot_be_written_has_no_turns(tmp_path: Path) -> None:
    with turn(tmp_path / "no" / "such" / "fedsweep.db"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_is_still_said_to_be_one(file: Path, store: Engine) -> None:
    file.chmod(0o444)
    with pytest.raises(StoreReadOnly):
        write(store, "never")
