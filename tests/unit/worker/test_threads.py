"""The threads of a process with several slots: their errors, and their messages."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsweep import shared, worker
from fedsweep.errors import FedsweepError, MachineError
from fedsweep.shared import Shared
from fedsweep.worker import Broken, process
from fedsweep.worker.company import Company
from fedsweep.worker.messages import Decided
from fedsweep.worker.process import Member, Orders, _Threads

Pipes = list[Any]


class Memory:
    """A device of 1000 bytes."""

    def total(self) -> int:
        return 1000


@pytest.fixture
def memory(tmp_path: Path) -> list[Shared]:
    """The shared memory of two slots."""
    return shared.create(tmp_path / "shared", 2)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    """The watch's ends of the pipes of two slots, and then the slots' ends."""
    pairs = [multiprocessing.Pipe() for _ in range(2)]
    ends = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def threads(memory: list[Shared], pipes: Pipes, tmp_path: Path) -> _Threads:
    members = tuple(Member(n, f"w{n}", pipes[2 + n]) for n in range(2))
    options = worker.WorkOptions("", packed=True, slots=2)
    box, file = tmp_path / "box", tmp_path / "shared"
    orders = Orders(options, "cuda:0", members, box, file, (), proven=False)
    return _Threads(orders, threading.Event())


def company(report: Any = print) -> Company:
    return Company(Memory(), lambda _config: False, report)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "blameless"),
    [
        (MachineError("no disk"), True),
        (FedsweepError("the trainer stopped"), False),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_an_error_of_a_slot_stops_the_others(
    error: Exception,
    blameless: bool | None,
    threads: _Threads,
    memory: list[Shared],
    pipes: Pipes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watch is told, unless it is a bug. After it, the other threads' work counts as the slot's
    own, because the watch may still count its trial as running.
    """
    numbers: list[int] = []

    def work(*_: object) -> None:
        numbers.append(memory[1].thread)
        raise error

    monkeypatch.setattr(process, "_work", work)
    threads.slot(threads.orders.members[1], company())
    assert numbers == [threading.get_native_id()]
    assert memory[1].thread == 0
    assert threads.stop_requested.is_set()
    (end,) = threads.errors
    if blameless is None:
        assert end is error
        assert not pipes[1].poll()
    else:
        assert isinstance(end, SystemExit)
        assert pipes[1].recv() == Broken(str(error), blameless)


def test_a_slot_that_is_never_needed_opens_no_store(
    threads: _Threads, memory: list[Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends without an error when the watch stops it."""
    monkeypatch.setattr(process, "_work", lambda *_: pytest.fail("it has begun"))
    memory[0].stop = 1
    threads.slot(threads.orders.members[0], company())
    assert threads.errors == []
    assert not threads.stop_requested.is_set()


def test_each_thread_reports_through_its_own_pipe(
    threads: _Threads, pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads must not write to one pipe."""
    monkeypatch.setattr(process, "_work", lambda *_: threads.report("try 2"))
    threads.slot(threads.orders.members[1], company())
    assert pipes[1].recv() == Decided("try 2")
    assert not pipes[0].poll()


def test_threads_that_have_started_stop_if_another_one_cannot_start(threads: _Threads) -> None:
    """A machine may limit the number of threads."""

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    first = threading.Thread(target=threads.stop_requested.wait)
    with pytest.raises(RuntimeError, match="new thread"):
        threads.start([first, Refused()])
    first.join(60)
    assert not first.is_alive()
