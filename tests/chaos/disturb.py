"""The disturbances. Each does its harm, arranges for its mending, and says what it did; None where
there was nothing to harm.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos import plans
from tests.chaos.command import run
from tests.chaos.stage import Event, Stage
from tests.chaos.stores import Postgres, Sqlite, Store
from tests.chaos.workers import LEASE, Worker, send

HOUR = 3600
TAKEOVER_SECONDS = 8.0
"""Seconds that a frozen process stays frozen for longer if no other has taken its trial yet."""


@dataclass(frozen=True)
class Harm:
    """A disturbance, and the trainers that it met."""

    what: str
    pids: frozenset[int] = frozenset()
    everyone: bool = False


Disturbance = Callable[[Stage], Harm | None]


def kill_slot(stage: Stage) -> Harm | None:
    if (target := _a_slot(stage)) is None:
        return None
    worker, slot = target
    send([slot], signal.SIGKILL)
    return Harm(f"worker {worker.number}, slot {slot}", frozenset({slot}))


def kill_watch(stage: Stage) -> Harm | None:
    """Kill a watch. Its orphaned slots save their trials and give them back."""
    if (worker := _a_worker(stage)) is None:
        return None
    slots, worker.asked = worker.slots(), True
    worker.process.kill()
    return Harm(f"worker {worker.number}", frozenset(slots))


def kill_worker(stage: Stage) -> Harm | None:
    if (worker := _a_worker(stage)) is None:
        return None
    slots, worker.asked = worker.slots(), True
    os.killpg(worker.process.pid, signal.SIGKILL)
    return Harm(f"worker {worker.number}", frozenset(slots))


def stop_slot(stage: Stage) -> Harm | None:
    if (target := _a_slot(stage)) is None:
        return None
    worker, slot = target
    return _freeze(stage, worker, [slot], [slot])


def stop_watch(stage: Stage) -> Harm | None:
    """Freeze a watch. Its slots go on, and only their own writes renew their leases."""
    if (worker := _a_worker(stage)) is None:
        return None
    return _freeze(stage, worker, [worker.process.pid], [])


def stop_worker(stage: Stage) -> Harm | None:
    if (worker := _a_worker(stage)) is None:
        return None
    slots = worker.slots()
    return _freeze(stage, worker, [worker.process.pid, *slots], slots)


def _freeze(stage: Stage, worker: Worker, pids: list[int], slots: list[int]) -> Harm:
    """Freeze processes for longer than the lease, and until another attempt has their trials.

    A trainer that then continues does not know that it has lost its trial.
    """
    seconds, since = LEASE + stage.rng.uniform(1.0, 3.0), time.monotonic()
    held = stage.eye.held_by(slots)
    send(pids, signal.SIGSTOP)

    def go_on() -> None:
        late = stage.resting or time.monotonic() > since + seconds + TAKEOVER_SECONDS
        if not late and not all(map(stage.eye.overtaken, held)):
            stage.later(0.1, go_on)
            return
        alive = frozenset(slot for slot in slots if _alive(slot))
        stage.frozen.append((since, time.monotonic(), alive))
        send(pids, signal.SIGCONT)

    stage.later(seconds, go_on)
    return Harm(f"worker {worker.number}, {len(pids)} processes, {seconds:.1f} s", frozenset(slots))


def ask_to_stop(stage: Stage) -> Harm | None:
    """Send SIGTERM. The worker finishes its round, saves it and gives the trial back."""
    if (worker := _a_worker(stage)) is None:
        return None
    slots, worker.asked = worker.slots(), True
    worker.process.terminate()
    return Harm(f"worker {worker.number}", frozenset(slots))


def set_clock(stage: Stage) -> Harm:
    """Set the host's wall clock, an hour back or forth at most."""
    offset = stage.rng.choice([-HOUR, 0, HOUR])
    stage.set_clock(offset)
    return Harm(f"{offset:+d} s")


def damage_snapshot(stage: Stage) -> Harm | None:
    """Damage the newest snapshot. Its trainer is killed, so that it does not write another."""
    if (file := newest_file(stage.folder)) is None:
        return None
    how = stage.rng.choice([_truncate, _garble, _delete])
    try:
        how(file)
    except FileNotFoundError:  # it was replaced
        return None
    trainers = _trainers_of(stage, file)
    send(trainers, signal.SIGKILL)
    return Harm(f"{file.name}: {how.__name__.strip('_')}", frozenset(trainers))


def newest_file(folder: Path) -> Path | None:
    """Return the latest snapshot below the run's folder, in any folder of artifacts."""
    files = []
    for file in _files(folder):
        try:
            files.append((file.stat().st_mtime_ns, file))
        except FileNotFoundError:
            continue
    return max(files)[1] if files else None


def files_left(folder: Path) -> int:
    """Count the snapshots that are left, with incomplete ones."""
    return sum(1 for _ in _files(folder, halves=True))


def _files(folder: Path, *, halves: bool = False) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        if "artifacts" in place:
            yield from (Path(place, name) for name in names if halves or not name.startswith("."))


def _trainers_of(stage: Stage, file: Path) -> list[int]:
    """Return the slot that holds the trial of a snapshot, by the trial id in the file's name."""
    slots = [slot for worker in stage.crew.alive() for slot in worker.slots()]
    return [slot for slot in slots for trial, _ in stage.eye.held_by([slot]) if trial in str(file)]


def _delete(file: Path) -> None:
    file.unlink()


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _garble(file: Path) -> None:
    """Overwrite 256 bytes among the numbers, which only the file's checksum can detect."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(random.Random(0).randbytes(256))


def pause_sweep(stage: Stage) -> Harm | None:
    """Pause a sweep by a command, and resume it by another one after a while."""
    if stage.copies == 0:
        return None
    name = plans.name(stage.rng.randrange(max(0, stage.copies - 2), stage.copies))
    stage.errands.start("sweep", "pause", name, "--db", stage.store.url)
    seconds = stage.rng.uniform(3.0, 6.0)

    def resume() -> None:
        stage.errands.start("sweep", "resume", name, "--db", stage.store.url)

    stage.later(seconds, resume)
    return Harm(f"{name}, {seconds:.1f} s")


def fill_disk(stage: Stage) -> Harm | None:
    store = stage.store
    if not isinstance(store, Sqlite) or store.full:
        return None
    seconds = stage.rng.uniform(2.0, 5.0)
    store.fill()
    stage.later(seconds, store.mend)
    return Harm(f"{seconds:.1f} s", everyone=True)


def restart_server(stage: Stage) -> Harm | None:
    store = stage.store
    if not isinstance(store, Postgres) or not store.running:
        return None
    mode, seconds = stage.rng.choice(["fast", "immediate"]), stage.rng.uniform(1.0, 5.0)
    store.stop(mode)
    stage.later(seconds, store.mend)
    return Harm(f"{mode}, {seconds:.1f} s", everyone=True)


def cut_connections(stage: Stage) -> Harm | None:
    store = stage.store
    if not isinstance(store, Postgres) or not store.running:
        return None
    store.cut()
    return Harm("all of them")


EVERYWHERE: dict[str, Disturbance] = {
    "slot killed": kill_slot,
    "watch killed": kill_watch,
    "worker killed": kill_worker,
    "slot frozen": stop_slot,
    "watch frozen": stop_watch,
    "worker frozen": stop_worker,
    "worker asked to stop": ask_to_stop,
    "clock set": set_clock,
    "snapshot damaged": damage_snapshot,
}


def kinds(store: Store, folder: Path) -> dict[str, Disturbance]:
    """Return the disturbances that are possible on this machine, by their names in the report."""
    possible = dict(EVERYWHERE)
    if isinstance(store, Postgres):
        possible |= {"server restarted": restart_server, "connections cut": cut_connections}
    elif store.mounted:
        possible |= {"disk filled": fill_disk}
    if "pause" in run(folder, "sweep", "--help").stdout:
        possible |= {"sweep paused": pause_sweep}
    return possible


class Deck:
    """The disturbances in random order. Each comes once before any comes again."""

    def __init__(self, kinds: dict[str, Disturbance], rng: random.Random) -> None:
        self.kinds, self.rng = kinds, rng
        self.cards: list[str] = []

    def strike(self, stage: Stage) -> Event | None:
        """Make the next disturbance. One that had nothing to harm is not counted."""
        if not self.cards:
            self.cards = self.rng.sample(sorted(self.kinds), len(self.kinds))
        kind, at = self.cards.pop(), time.monotonic()
        harm = self.kinds[kind](stage)
        if harm is None:
            return None
        event = Event(at, kind, harm.what, harm.pids, harm.everyone)
        stage.events.append(event)
        return event


def _a_worker(stage: Stage) -> Worker | None:
    """Return a random worker, one that trains if possible."""
    alive = [worker for worker in stage.crew.alive() if not worker.asked]
    train = [worker for worker in alive if stage.eye.held_by(worker.slots())]
    return stage.rng.choice(train or alive) if alive else None


def _a_slot(stage: Stage) -> tuple[Worker, int] | None:
    """Return a random slot and its worker, one that trains if possible."""
    alive = [(w, slot) for w in stage.crew.alive() if not w.asked for slot in w.slots()]
    train = [(w, slot) for w, slot in alive if stage.eye.held_by([slot])]
    return stage.rng.choice(train or alive) if alive else None


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
