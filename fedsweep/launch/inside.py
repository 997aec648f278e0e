"""A launched worker: it runs in the scheduler's job, and works until no trial is left."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsweep import machine, output, provenance, queue, worker
from fedsweep.actions import work as actions
from fedsweep.launch import environment
from fedsweep.launch.order import Order, data_path, webhooks
from fedsweep.settings import DATABASE, setting
from fedsweep.store import launches, schema, trust
from fedsweep.store.transactions import reading
from fedsweep.worker import WorkStatus


def settle(order: Order, job: str, log: str) -> None:
    """Set the variables of the launch in this process, and tell its attempts where they ran."""
    os.environ.update(environment.read(Path(order.folder)))
    named = {"id": order.launch, "kind": order.kind, "job": job, "log": log}
    os.environ[provenance.LAUNCH] = json.dumps(named)


def run(order: Order, hours: float | None) -> bool:
    """Work in this process until no trial is left, for `hours` at most, or until a signal.

    SIGTERM finishes the round, saves it and gives the trials back. Return whether the worker has to
    be started again.

    Raises:
        FedsweepError: the worker cannot work here.

    """
    output.in_background()
    if warning := machine.settle_home():
        print(f"fedsweep: {warning}", file=sys.stderr)
    url = setting(DATABASE) or ""
    if is_over(order, url):
        print("no trial is left, or the launch was stopped", flush=True)
        return False
    options = actions.options(
        url,
        order.device,
        slots=order.slots,
        threads=order.threads,
        engine=order.engine,
        sweep=order.sweep,
        until_empty=True,
        max_trials=None,
        max_hours=hours,
        max_attempts=order.max_attempts,
        data=data_path(order.data),
        lease=order.lease,
        grace=order.grace,
        artifacts=order.artifacts,
        artifacts_variable=setting(trust.VARIABLE),
        notify=webhooks(),
    )
    tally = worker.work(options, _print_ends)
    print(actions.summary(tally), flush=True)
    if tally.broken:
        print(f"fedsweep: {tally.broken}", file=sys.stderr, flush=True)
        raise SystemExit(1)
    return tally.stopped and not is_over(order, url)


def is_over(order: Order, url: str) -> bool:
    """Return whether the launch needs no worker: no trial is left, or a person stopped it."""
    engine = schema.open_store(url)
    try:
        with reading(engine) as connection:
            stopped = launches.is_stopped(connection, order.launch)
            return stopped or not queue.outstanding(connection, order.sweep)
    finally:
        engine.dispose()


@contextmanager
def stopping_at(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Let these signals stop the worker after its round, as a terminal that hangs up does.

    Before the worker has set its own handlers, a signal is added to the list.
    """
    early: list[int] = []

    def note(number: int, _frame: object) -> None:
        early.append(number)

    def stop(_number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = {n: signal.signal(n, note) for n in (signal.SIGHUP, signal.SIGTERM)}
    before |= {n: signal.signal(n, stop) for n in numbers}
    try:
        yield early
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_ends(view: WorkStatus) -> None:
    if view.ended is not None:
        print(actions.ended_line(view), flush=True)
