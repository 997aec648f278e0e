"""Make, list, read and stop launches, of any scheduler."""

from __future__ import annotations

import getpass
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.launch import environment, scheduler
from fedsweep.launch.order import Order
from fedsweep.launch.scheduler import Job
from fedsweep.store import file_places, launches, live
from fedsweep.store.artifacts import folder_of
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.launches import Launch
from fedsweep.store.progress import sweep_progress
from fedsweep.store.sweep_rows import require_sweep
from fedsweep.store.transactions import reading, transaction
from fedsweep.words import counted

FOLDER = "launches"
"""The default folder of the launches, in the working folder."""


@dataclass(frozen=True)
class Known:
    """A launch, as the database and its scheduler tell it."""

    launch: Launch
    jobs: Sequence[Job]
    training: int
    """Trials that its workers train now, by their leases."""
    error: str = ""
    """Why the scheduler does not answer; "" if it does."""

    @property
    def states(self) -> dict[str, int]:
        """Count the jobs by state."""
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.state] = counts.get(job.state, 0) + 1
        return counts


def trials_left(engine: Engine, sweep: str | None) -> int:
    """Return the trials in scope that are queued or running; an open arm of a search counts as one.

    Raises:
        NotFound: there is no such sweep.

    """
    with reading(engine) as connection:
        if sweep is not None:
            require_sweep(connection, sweep)
        progress = [p for p in sweep_progress(connection, sweep) if p.held is None]
    return sum(p.queued + p.running + p.searching for p in progress)


def identity() -> str:
    """Return a new launch's id, 8 hexadecimal digits."""
    return secrets.token_hex(4)


def start(
    engine: Engine,
    order: Order,
    variables: Mapping[str, str] | None,
    workers: int,
    request: Mapping[str, Any],
    submit: Callable[[], Sequence[str]],
) -> Launch:
    """Make a launch: its folder, its row, and the jobs that `submit` gives to the scheduler.

    The row is stored first, so that no job can run that the database does not know. If the
    scheduler refuses, nothing is left. `variables` are those that the folder keeps.

    Raises:
        RequestError: the folder cannot be made, or the scheduler refuses.

    """
    folder = prepare(order, variables)
    launch = Launch(
        id=order.launch,
        kind=order.kind,
        sweep=order.sweep,
        at=time.time(),
        person=_person(),
        host=platform.node(),
        folder=order.folder,
        workers=workers,
        request=request,
        jobs=(),
    )
    with transaction(engine) as connection:
        launches.add(connection, launch)
    try:
        jobs = tuple(submit())
    except BaseException:
        with transaction(engine) as connection:
            launches.remove(connection, order.launch)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with transaction(engine) as connection:
        launches.set_jobs(connection, order.launch, jobs)
    return replace(launch, jobs=jobs)


def prepare(order: Order, variables: Mapping[str, str] | None = None) -> Path:
    """Make a launch's folder, which only its user can read, with the environment in it if needed.

    Raises:
        RequestError: it cannot be made.

    """
    folder = Path(order.folder)
    try:
        folder.mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be made ({error.strerror or error}): name another folder with "
            "--folder"
        ) from error
    if variables is not None:
        environment.write(folder, variables)
    return folder


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name in the system's list of users
        return "?"


def notes(engine: Engine, sweep: str | None) -> Iterator[str]:
    """Yield sentences about files that other nodes may not see."""
    file = sqlite_file(engine.url)
    if file is not None:
        yield (
            f"{file} is a file of this machine: workers on other nodes need Postgres "
            "(--db postgresql://…)"
        )
        return
    with reading(engine) as connection:
        homes = file_places.homes(connection, sweep)
    local = [
        name
        for home, names in homes.items()
        if not folder_of(engine.url, home).shared
        for name in names
    ]
    if local:
        yield (
            f"snapshots of {', '.join(local)} stay on each node: a trial that goes on elsewhere "
            "begins again. Plan with --artifacts and a folder that all nodes see"
        )


def known(engine: Engine) -> list[Known]:
    """Return all launches with their jobs and leases, the newest first."""
    with reading(engine) as connection:
        stored = launches.every(connection)
        training = launches.training(live.running(connection)) if stored else {}
    return [_known(launch, training.get(launch.id, 0)) for launch in stored]


def _known(launch: Launch, training: int) -> Known:
    try:
        return Known(launch, scheduler.find(launch.kind).jobs(launch), training)
    except RequestError as error:
        return Known(launch, (), training, str(error))


def follow(engine: Engine, launch: Launch, seconds: float) -> Iterator[str]:
    """Yield a line for each change of a launch, until all of its workers have ended.

    Raises:
        RequestError: the scheduler does not answer.

    """
    shown = ""
    its = scheduler.find(launch.kind)
    while True:
        jobs = its.jobs(launch)
        with reading(engine) as connection:
            progress = sweep_progress(connection, launch.sweep)
        done = (
            f"{sum(p.done for p in progress)}/{counted(sum(p.trials for p in progress), 'trial')}"
        )
        failed = sum(p.failed for p in progress)
        states = Known(launch, jobs, 0).states
        words = [f"{n} {state}" for state, n in states.items()]
        reasons = [job.reason for job in jobs if job.state == "pending" and job.reason]
        line = f"{done} done" + (f", {failed} failed" if failed else "")
        line += f"; workers: {', '.join(words)}" + "".join(f"; {text}" for text in reasons[:1])
        if line != shown:
            shown = line
            yield line
        if not _active(jobs):
            return
        time.sleep(seconds)


def find(engine: Engine, prefix: str) -> Launch:
    """Return the launch whose id begins so.

    Raises:
        NotFound: there is none, or there are several.

    """
    with reading(engine) as connection:
        return launches.find(connection, prefix)


def log_lines(launch: Launch, job: str | None, lines: int) -> Iterator[tuple[str, str]]:
    """Yield the last lines of a launch's logs, each with its job. `job` names one of them.

    Raises:
        RequestError: there is no such job, or no log yet on this machine.

    """
    files = scheduler.find(launch.kind).logs(launch)
    if job is not None and job not in files:
        known = ", ".join(files) or "none yet"
        raise RequestError(f"launch {launch.id} has no log of job {job}: there are {known}")
    if not files:
        raise RequestError(f"launch {launch.id} has no log yet in {launch.folder}")
    for name, parts in files.items():
        if job in (None, name):
            texts = [line for file in parts for line in scheduler.tail(file, lines)]
            yield from ((name, line) for line in texts[-lines:])


def stop(
    engine: Engine,
    launch: Launch,
    seconds: float,
    show: Callable[[Known], None],
    *,
    now: bool = False,
) -> bool:
    """Stop a launch: let its workers give their trials back, then cancel what is left.

    It waits `seconds` at most for the workers, and shows them meanwhile. With `now`, it cancels at
    once. Return whether all workers ended by themselves.

    Raises:
        RequestError: the scheduler does not answer.

    """
    with transaction(engine) as connection:
        launches.stop(connection, launch.id)
    its = scheduler.find(launch.kind)
    if not now:
        its.stop(launch)
        end = time.monotonic() + seconds
        while _active(jobs := its.jobs(launch)) and time.monotonic() < end:
            show(Known(replace(launch, stopped_at=time.time()), jobs, 0))
            time.sleep(min(1.0, seconds))
    left = _active(its.jobs(launch))
    if left:
        its.cancel(launch)
    if Path(launch.folder).is_dir():
        environment.remove(Path(launch.folder))
    return not left


def _active(jobs: Sequence[Job]) -> bool:
    return any(not job.over for job in jobs)
