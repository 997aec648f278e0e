"""The actors of a launch on Ray: a supervisor, and its workers.

Ray imports this module on its nodes. The supervisor reads from the database how much work is left,
starts and stops workers, and ends with the last of them. Ray starts an actor again after its node
has died. The supervisor then finds its workers by their names.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsweep import children, provenance, queue
from fedsweep.errors import FedsweepError, NotFound, hide_secrets
from fedsweep.launch import environment, fleet, launches, scheduler
from fedsweep.launch.fleet import Need, Record, Seen, Size
from fedsweep.launch.order import Order
from fedsweep.store import launches as stored
from fedsweep.store import live, schema
from fedsweep.store.transactions import reading

NAMESPACE = "fedsweep"
"""The namespace of all actors and records in Ray."""
REPORT_SECONDS = 1.0
"""Seconds that a supervisor waits for its workers' reports at a time."""
SILENT_SECONDS = {"pending": 0.0, "running": 10.0, "stopping": 60.0}
"""Seconds without a report after which a worker in each state waits for a node again."""
TAIL = 500
"""Lines of a log that are kept in Ray after the worker's end, if no other machine sees the log."""


class Secret:
    """Variables that no text shows: neither an error of Ray nor a page of its dashboard."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class Report:
    """A worker's own state."""

    state: str
    node: str
    log: str
    shared: bool
    seconds: float
    """Its age."""
    code: int | None = None
    """The exit code; None as long as it runs. A signal's number is negative."""
    asked: bool = False
    """True if it was told to stop."""
    last: str = ""
    """The last line of its log, after its end."""
    tail: str = ""
    """The end of a log that only its machine sees, after the worker's end."""

    @property
    def reason(self) -> str:
        """Return the reason of its end."""
        if self.code is None:
            return ""
        if self.code == 0:
            return "stopped" if self.asked else ""
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return f"{how}: {self.last}" if self.last else how


class Worker:
    """An actor with a worker in a child process. Its name is the job's id."""

    def __init__(self, order: Order, name: str, secret: Secret) -> None:
        self.order, self.name = order, name
        folder = Path(order.folder)
        self.shared = folder.is_dir()
        if not self.shared:
            folder = Path(tempfile.gettempdir()) / f"fedsweep-{order.launch}"
            folder.mkdir(mode=0o700, exist_ok=True)
        self.log = folder / f"{name}.log"
        self.began = time.monotonic()
        self.asked = False
        self._lock = threading.Lock()
        self.child = self._start(secret)
        threading.Thread(target=self.child.wait, daemon=True).start()

    def __repr__(self) -> str:
        return f"Worker({self.name})"

    def _start(self, secret: Secret) -> subprocess.Popen[bytes]:
        launch = {
            "id": self.order.launch,
            "kind": self.order.kind,
            "job": self.name,
            "log": str(self.log),
        }
        variables = {**secret.variables, provenance.LAUNCH: json.dumps(launch)}
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        home = self.order.home
        try:
            return subprocess.Popen(
                self._command(),
                env={**os.environ, **variables},
                cwd=home if home is not None and Path(home).is_dir() else None,
                stdin=subprocess.PIPE,  # it closes when this process ends: see `cli.launched`
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    def _command(self) -> list[str]:
        """Return the child's command line. It holds no secret."""
        *start, home = children.command("fedsweep.cli.launched")
        return [*start, *self.order.command(), home]

    def report(self) -> Report:
        """Return the worker's state."""
        code = self.child.poll()
        state = "ended" if code is not None else "stopping" if self.asked else "running"
        lines = list(scheduler.tail(self.log, TAIL)) if code is not None else []
        return Report(
            state, platform.node(), str(self.log), self.shared, time.monotonic() - self.began,
            code=code, asked=self.asked, last=hide_secrets(lines[-1]) if lines else "",
            tail="" if self.shared else hide_secrets("\n".join(lines)),
        )  # fmt: skip

    def stop(self) -> None:
        """Let the worker finish its round and give its trials back.

        It sends one signal only. A second one would drop the round.
        """
        with self._lock:
            if not self.asked:
                self.asked = True
                self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker and its slots at once."""
        with self._lock:
            self.asked = True
            if self.child.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self.child.pid, signal.SIGKILL)

    def tail(self, lines: int) -> str:
        """Return the last lines of the log."""
        return hide_secrets("\n".join(scheduler.tail(self.log, lines)))

    def _signal(self, number: signal.Signals) -> None:
        if self.child.poll() is None:
            self.child.send_signal(number)


class Supervisor:
    """An actor that keeps as many workers as the work that is left needs."""

    def __init__(
        self, order: Order, size: Size, options: Mapping[str, Any], secret: Secret, seconds: float
    ) -> None:
        self.order, self.size, self.options, self.secret = order, size, dict(options), secret
        self.seconds = seconds
        self.record = read_record(order.launch) or Record()
        self._reports: dict[str, tuple[Any, float]] = {}
        """The report that each worker owes: its reference, and the time of the request."""
        self._wake = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def __repr__(self) -> str:
        return f"Supervisor({self.order.launch})"

    def check(self) -> str:
        """Return why this node cannot use the database; "" if it can."""
        try:
            self._need()
        except FedsweepError as error:
            return f"{platform.node()}: {error}"
        return ""

    def pid(self) -> int:
        """Return the number of this process."""
        return os.getpid()

    def wake(self) -> None:
        """Look at the database now."""
        self._wake.set()

    def _run(self) -> None:
        while not self.record.over:
            try:
                self._step()
            except FedsweepError as error:
                self._note(f"{platform.node()}: {error}")
            except Exception:  # noqa: BLE001  # Ray may raise anything while a node dies
                print(hide_secrets(traceback.format_exc()), file=sys.stderr, flush=True)
            self._wake.wait(self.seconds)
            self._wake.clear()
        kill_actor(self.order.launch)

    def _note(self, text: str) -> None:
        self._store(replace(self.record, note=text))

    def _store(self, record: Record) -> None:
        if record != self.record:
            self.record = record
            write_record(self.order.launch, record)

    def _need(self) -> Need:
        engine = schema.open_store(environment.database(self.secret.variables))
        try:
            left = launches.trials_left(engine, self.order.sweep)
            with reading(engine) as connection:
                return Need(
                    left=left,
                    open=queue.outstanding(connection, self.order.sweep),
                    stopped=stored.is_stopped(connection, self.order.launch),
                    busy=stored.training_jobs(live.running(connection), self.order.launch),
                )
        except NotFound:  # the sweep was deleted
            return Need(0, open=False, stopped=False, busy=())
        finally:
            engine.dispose()

    def _step(self) -> None:
        need = self._need()
        self._store(self._look(need))
        step = fleet.step(self.size, self.record, need, time.time())
        for name in step.stop:
            if actor := find_actor(name):
                actor.stop.remote()
        for name in step.drop:
            kill_actor(name)
        changed = {name: replace(self.record.workers[name], state="stopping") for name in step.stop}
        changed |= {
            name: Seen("ended", reason="not needed any more, before it started")
            for name in step.drop
        }
        names = self.record.names(self.order.launch, step.start)
        started = {name: Seen() for name in names}
        # The names are stored first: a supervisor that dies now looks for these actors later.
        record = self.record.with_workers({**changed, **started})
        self._store(replace(record, over=step.over, note=step.note))
        for name in names:
            start_worker(self.order, name, self.options, self.secret)

    def _look(self, need: Need) -> Record:
        """Return the record with the workers' reports, and let ended actors go."""
        import ray
        from ray.exceptions import RayActorError

        record, changed = self.record, {}
        for name in record.live.keys() - self._reports.keys():
            actor = find_actor(name)
            if actor is None:
                changed[name] = Seen("ended", reason="its actor is gone")
                record = record.after_failure(time.time())
            else:
                self._reports[name] = actor.report.remote(), time.monotonic()
        names = {reference: name for name, (reference, _) in self._reports.items()}
        ready: list[Any] = []
        if names:
            ready, _ = ray.wait(list(names), num_returns=len(names), timeout=REPORT_SECONDS)
        for reference, name in names.items():
            before = record.workers[name]
            if reference not in ready:
                silent = time.monotonic() - self._reports[name][1]
                if silent >= SILENT_SECONDS[before.state]:
                    changed[name] = replace(before, state="pending", node="")
                continue
            del self._reports[name]
            try:
                report: Report = ray.get(reference)
            except RayActorError as error:
                changed[name] = replace(before, state="ended", reason=_words(error))
                record = record.after_failure(time.time())
                continue
            changed[name] = Seen(
                report.state, report.node, hide_secrets(report.reason), report.log, report.shared
            )
            if report.state != "ended":
                continue
            if report.tail:
                write_tail(self.order.launch, name, report.tail)
            kill_actor(name)
            failed = fleet.has_failed(
                report.code, report.seconds, asked=report.asked, left=need.left
            )
            record = record.after_failure(time.time()) if failed else record
        return record.with_workers(changed)


def start_worker(order: Order, name: str, options: Mapping[str, Any], secret: Secret) -> None:
    """Start the actor of a worker. It waits in Ray until a node has room for it."""
    import ray

    actor: Any = ray.remote(Worker)
    actor.options(
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True,
        max_restarts=-1, max_task_retries=-1, max_concurrency=4, **options,
    ).remote(order, name, secret)  # fmt: skip


def find_actor(name: str) -> Any:
    """Return the actor of this name; None if it has ended."""
    import ray

    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def kill_actor(name: str) -> None:
    """End an actor, so that Ray does not start it again."""
    import ray

    if actor := find_actor(name):
        ray.kill(actor, no_restart=True)


def _words(error: Exception) -> str:
    """Return the last line of an error of Ray, which says more than the first ones."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return hide_secrets(lines[-1] if lines else type(error).__name__)


def read_record(launch: str) -> Record | None:
    """Return what the supervisor of a launch has stored; None if there is nothing."""
    from ray.experimental import internal_kv

    text = internal_kv._internal_kv_get(launch, namespace=NAMESPACE)  # noqa: SLF001
    return None if text is None else fleet.load(text.decode())


def write_record(launch: str, record: Record) -> None:
    """Store what a supervisor knows in Ray, as long as Ray's head lives."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(launch, record.dump(), namespace=NAMESPACE)  # noqa: SLF001


def read_tail(launch: str, name: str) -> str:
    """Return the end of an ended worker's log; "" if it is not stored."""
    from ray.experimental import internal_kv

    text = internal_kv._internal_kv_get(f"{launch}/{name}", namespace=NAMESPACE)  # noqa: SLF001
    return "" if text is None else str(text.decode())


def write_tail(launch: str, name: str, text: str) -> None:
    """Store the end of an ended worker's log."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(f"{launch}/{name}", text, namespace=NAMESPACE)  # noqa: SLF001
