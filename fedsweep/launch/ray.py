"""Ray: workers as actors, which a supervisor starts and stops as work and nodes come and go.

The supervisor is an actor too, and outlives the command that launched it. Actors that wait for room
are the demand that Ray's autoscaler sees. See `fedsweep.launch.actors`.
"""

from __future__ import annotations

import atexit
import logging
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from fedsweep.errors import RequestError, hide_secrets
from fedsweep.launch.fleet import LIVE, Record, Seen, Size
from fedsweep.launch.order import Order
from fedsweep.launch.scheduler import Job
from fedsweep.settings import setting
from fedsweep.store.launches import Launch

if TYPE_CHECKING:
    from fedsweep.launch.actors import Secret

ADDRESS = "RAY_ADDRESS"
"""Ray's own variable with the address of its head."""
AUTO = "auto"
"""The address of the Ray of this machine."""
POLL = "FEDSWEEP_LAUNCH_POLL"
"""The variable with the seconds between two looks at the database."""
POLL_SECONDS = 3.0
CONNECT_SECONDS = 5.0
"""Seconds in which the head has to accept a connection."""
START_SECONDS = 120.0
"""Seconds in which the supervisor has to start and to reach the database."""
KILL_SECONDS = 5.0
"""Seconds in which canceled workers have to kill their slots."""
CLIENT = "ray://"
"""The scheme of addresses that are reached without a node of Ray on this machine."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Resources of each worker, as Ray names them, and the number of workers."""

    size: Size
    gpus: float = 0.0
    cpus: int = 1
    mem: str | None = None
    """Memory, as in "8G"."""

    def options(self) -> dict[str, Any]:
        """Return the options by name, without those that are not given."""
        named = {
            "workers": f"{self.size.least}:{self.size.most}",
            "gpus": self.gpus,
            "cpus": self.cpus,
            "mem": self.mem,
        }
        return {name: value for name, value in named.items() if value is not None}

    def resources(self) -> dict[str, float]:
        """Return the resources of an actor."""
        memory = {"memory": float(size_of(self.mem))} if self.mem is not None else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    def check(self) -> None:
        """Raise an error if Ray cannot understand it.

        Raises:
            RequestError: the memory is no size, or GPUs are neither whole nor a fraction of one.

        """
        if self.mem is not None:
            size_of(self.mem)
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise RequestError(
                f"--gpus-per-worker {self.gpus}: more than one GPU is a whole number"
            )


def size_of(text: str) -> int:
    """Return the bytes of a size such as 8G, with Slurm's units of 1024. A number alone is in MB.

    Raises:
        RequestError: it is none.

    """
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise RequestError(f"--mem {text} is no size: write 8G or 500M")
    return int(match[1]) * UNITS[match[2].upper() or "M"]


def poll_seconds() -> float:
    """Return the seconds between two looks of a supervisor at the database.

    Raises:
        RequestError: the variable holds no number.

    """
    text = setting(POLL)
    try:
        seconds = POLL_SECONDS if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 3600.0:
        raise RequestError(f"${POLL} is {text}: write seconds between 0 and 3600")
    return seconds


@contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Connect to a Ray, and yield the address at which others reach it.

    A connection that this process has already stays open.

    Raises:
        RequestError: Ray is not installed, does not answer, or has another version.

    """
    try:
        import ray
    except ImportError as error:
        raise RequestError("Ray is not installed: pip install 'fedsweep[cluster]'") from error
    from fedsweep.launch.actors import NAMESPACE

    if ray.is_initialized():
        yield _address(address)
        return
    named = address or setting(ADDRESS) or AUTO
    _require_answer(named)
    _hide_command_line()
    try:
        ray.init(
            named, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise RequestError(_refusal(named, str(error))) from error
    try:
        yield _address(named)
    finally:
        ray.shutdown()


def _address(named: str | None) -> str:
    """Return the address for other commands: that of the head, unless a client's is named."""
    import ray

    if named is not None and named.startswith(CLIENT):
        return named
    return str(ray.get_runtime_context().gcs_address)


def _require_answer(address: str) -> None:
    """Raise an error if no process listens at an address, long before Ray gives up."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if address in (AUTO, "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(
            f"no Ray answers at {address} ({why}): name the address of its head with --address"
        ) from error


def _refusal(address: str, text: str) -> str:
    """Return a sentence for an error of `ray.init`."""
    if "ersion mismatch" in text or "versions do not match" in text:
        cluster = re.search(r"started with:\s+Ray: (\S+)\s+Python: (\S+)", text)
        other = f"Ray {cluster[1]} with Python {cluster[2]}" if cluster else "another version"
        import ray

        return (
            f"the Ray at {address} is {other}, and this one is Ray {ray.__version__} with Python "
            f"{_python()}: install the same versions"
        )
    if address == AUTO:
        return (
            "no Ray runs on this machine: start it with ray start, or name the address of its head "
            "with --address"
        )
    lines = [line.strip() for line in hide_secrets(text).splitlines() if line.strip()]
    return f"the Ray at {address} cannot be used: {lines[0] if lines else 'no reason'}"


def _python() -> str:
    import platform

    return platform.python_version()


def _hide_command_line() -> None:
    """Replace this process's command line if it holds a password, because Ray stores it.

    Raises:
        RequestError: it cannot be replaced.

    """
    import ray

    def unsafe() -> bool:
        return any(hide_secrets(word) != word for word in psutil.Process().cmdline())

    if not unsafe():
        return
    raylet: Any = ray._raylet  # noqa: SLF001  # Ray has no public name for the function
    raylet.setproctitle("fedsweep launch")
    if unsafe():
        raise RequestError(
            "Ray would store the password of --db: set $FEDSWEEP_DB to the URL instead"
        )


def missing_resources(request: Request) -> str:
    """Return a note if no node of the connected Ray has room for a worker; "" otherwise."""
    import ray

    cluster: Any = ray
    nodes = [node["Resources"] for node in cluster.nodes() if node["Alive"]]
    asked = {"CPU": float(request.cpus), "GPU": request.gpus}
    asked |= {"memory": float(size_of(request.mem))} if request.mem is not None else {}
    if any(all(node.get(name, 0.0) >= least for name, least in asked.items()) for node in nodes):
        return ""
    words = [f"{request.cpus} CPUs" if request.cpus > 1 else "1 CPU"]
    words += [f"{request.gpus:g} GPUs" if request.gpus > 1 else f"{request.gpus:g} GPU"] * bool(
        request.gpus
    )
    words += [f"{request.mem} of memory"] * (request.mem is not None)
    return f"no node of this Ray has {' and '.join(words)}: the workers wait for such a node"


def submit(order: Order, request: Request, secret: Secret) -> list[str]:
    """Start the supervisor in the connected Ray, and return its name. It starts the workers.

    Raises:
        RequestError: its node cannot use fedsweep or the database.

    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from fedsweep.launch.actors import NAMESPACE, Supervisor, kill_actor

    here = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(Supervisor)
    supervisor = actor.options(
        name=order.launch, namespace=NAMESPACE, lifetime="detached", num_cpus=0,
        max_restarts=-1, max_task_retries=-1, max_concurrency=4,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=here, soft=True),
    ).remote(order, request.size, request.resources(), secret, poll_seconds())  # fmt: skip
    try:
        problem = ray.get(supervisor.check.remote(), timeout=START_SECONDS)
    except GetTimeoutError:
        problem = f"no node of Ray starts an actor within {START_SECONDS:g} seconds"
    except (RayActorError, RayError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        problem = hide_secrets(f"Ray cannot start the supervisor: {lines[-1] if lines else error}")
    if problem:
        kill_actor(order.launch)
        raise RequestError(problem)
    return [order.launch]


class Ray:
    """The workers of launches on Ray."""

    def jobs(self, launch: Launch) -> list[Job]:
        """Return the workers as the supervisor knows them, as long as Ray's head lives."""
        with connected(_stored_address(launch)):
            record = _record(launch)
        if record is None:
            return [Job(launch.id, "ended", "Ray no longer knows it")]
        jobs = [
            Job(name, seen.state, seen.reason, seen.node) for name, seen in record.workers.items()
        ]
        if not record.over and (record.note or not record.live):
            jobs.append(Job(launch.id, "pending", record.note or "no worker is needed yet"))
        return jobs or [Job(launch.id, "ended", "it needed no worker")]

    def logs(self, launch: Launch) -> Mapping[str, list[Path]]:
        """Return the log of each worker. A log on another machine is fetched through Ray."""
        files = {f.stem: [f] for f in Path(launch.folder).glob(f"{launch.id}-*.log")}
        try:
            with connected(_stored_address(launch)):
                workers = (_record(launch) or Record()).workers
                distant = {name: seen for name, seen in workers.items() if name not in files}
                files |= {name: [_fetch(launch, name, seen)] for name, seen in distant.items()}
        except RequestError:
            if not files:
                raise
        return dict(sorted(files.items(), key=lambda item: _number(item[0])))

    def stop(self, launch: Launch) -> None:
        """Let the supervisor look into the database, in which the launch is stopped."""
        from fedsweep.launch.actors import find_actor

        with connected(_stored_address(launch)):
            if supervisor := find_actor(launch.id):
                supervisor.wake.remote()

    def cancel(self, launch: Launch) -> None:
        """End the supervisor and all workers at once."""
        import ray

        from fedsweep.launch.actors import find_actor, kill_actor, write_record

        with connected(_stored_address(launch)):
            kill_actor(launch.id)
            record = _record(launch) or Record()
            kills = [a.kill.remote() for name in record.live if (a := find_actor(name))]
            if kills:
                ray.wait(kills, num_returns=len(kills), timeout=KILL_SECONDS)
            for name in record.live:
                kill_actor(name)
            ended = {
                name: replace(seen, state="ended", reason="canceled")
                for name, seen in record.live.items()
            }
            write_record(launch.id, replace(record.with_workers(ended), over=True, note=""))


def _stored_address(launch: Launch) -> str:
    return str(launch.request["address"])


def _record(launch: Launch) -> Record | None:
    from fedsweep.launch.actors import read_record

    return read_record(launch.id)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _fetch(launch: Launch, name: str, seen: Seen) -> Path:
    """Return a temporary copy of a log that only the worker's machine has."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    from fedsweep.launch.actors import TAIL, find_actor, read_tail

    text = ""
    if seen.state not in LIVE:
        text = read_tail(launch.id, name)
    elif seen.state != "pending" and (actor := find_actor(name)):
        with suppress(GetTimeoutError, RayActorError):
            text = ray.get(actor.tail.remote(TAIL), timeout=CONNECT_SECONDS)
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-logs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / f"{name}.log"
    file.write_text(text, encoding="utf-8")
    return file
