"""Slurm: workers as the tasks of a job array, submitted through submitit.

Slurm sends SIGTERM before it preempts a job, and takes a job that then ends with code 0 as
completed: it would not start it again. So a worker that stops while trials are left asks Slurm to
requeue its job. A worker that finds none left ends. A job's time limit is no end of the work
either: the worker stops in time to finish its round, and is requeued.
"""

from __future__ import annotations

import io
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsweep.errors import FedsweepError, RequestError, hide_secrets
from fedsweep.launch import inside
from fedsweep.launch.order import Order
from fedsweep.launch.scheduler import Job
from fedsweep.store.launches import Launch

if TYPE_CHECKING:
    from submitit import SlurmExecutor

JOB_NAME = "fedsweep"
WITHOUT_LIMIT = 10**9
"""The number of time limits that a job may reach: it is requeued after each."""
LONGEST_MINUTES = 366 * 24 * 60
"""Minutes that submitit takes for the time limit of a job without `--time`: longer than any."""
MARGIN_SECONDS = 120.0
"""Seconds before a job's time limit at which its worker stops."""
MOST_MARGIN = 0.25
"""The most that the margin takes of a short time limit."""
ASK_SECONDS = 30.0
"""The time limit of a command of Slurm."""

TAKEN = {
    "array": "use --workers",
    "output": "the logs are in the launch's folder: use --folder",
    "error": "the logs are in the launch's folder: use --folder",
    "time": "use --time",
    "signal": "the workers stop by themselves before the time limit",
    "job-name": "jobs bear the launch's id",
    "requeue": "jobs are always requeued",
    "no-requeue": "a worker goes on in a requeued job",
    "wrap": "jobs run workers",
}
"""Options of sbatch that a launch sets itself, with the remedy."""

LIMIT_SIGNAL = "URG"
"""The signal that Slurm sends before a time limit, to all processes of the job. Those that know
nothing of it ignore this one; submitit's usual USR2 would end them.
"""

RUNS = {"RUNNING": "running", "PENDING": "pending", "REQUEUED": "pending", "REQUEUE_HOLD": "held"}
ENDING = ("COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Resources of each worker, as Slurm names them."""

    workers: int
    gpus: int = 0
    cpus: int = 1
    mem: str | None = None
    """Memory, as in "8G"."""
    time: str | None = None
    """The time limit, as in "2:00:00" or "1-12:00:00"; None is the partition's own."""
    partition: str | None = None
    account: str | None = None
    setup: tuple[str, ...] = ()
    """Commands of the job before the worker starts."""
    more: Mapping[str, str | bool] = field(default_factory=dict)
    """Further options of sbatch by name, without dashes."""

    def options(self) -> dict[str, Any]:
        """Return the options by name, without those that are not given."""
        named = {**vars(self), "more": dict(self.more), "setup": list(self.setup)}
        return {name: value for name, value in named.items() if value not in (None, [], {})}


@dataclass(frozen=True)
class SlurmWorker:
    """The callable that submitit starts in each task of the array."""

    order: Order
    seconds: float | None
    """The job's time limit; None if it is the partition's."""

    def __call__(self) -> str:
        """Work, and have the job requeued if trials are left."""
        requeue = signal.getsignal(signal.SIGURG)  # of submitit
        with inside.stopping_at(signal.SIGURG) as early:
            job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID", "?"))
            task = os.environ.get("SLURM_ARRAY_TASK_ID")
            job += f"_{task}" if task is not None else ""
            log = f"{self.order.folder}/{job}_0_log.out"
            try:
                inside.settle(self.order, job, log)
                left = bool(early) or inside.run(self.order, hours_left(self.seconds))
            except FedsweepError as error:
                print(f"fedsweep: {error}", file=sys.stderr, flush=True)
                raise SystemExit(error.exit_code) from None
        if not left:
            return "no trial is left"
        print("trials are left: requeue the job", flush=True)
        assert callable(requeue)
        if self.seconds is None:
            # submitit computes with the limit, which it does not know.
            delayed = requeue.__self__._delayed  # type: ignore[attr-defined]  # noqa: SLF001
            delayed.set_timeout(LONGEST_MINUTES, WITHOUT_LIMIT)
        requeue(signal.SIGURG, None)
        return "requeued"

    def checkpoint(self) -> Any:
        """Return the submission of this worker again, as submitit asks for before it requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def hours_left(seconds: float | None) -> float | None:
    """Return the hours until a job's worker has to stop; None without a time limit.

    Newer versions of Slurm tell the end of the job. Otherwise, it begins now.
    """
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    begun = os.environ.get("SLURM_JOB_START_TIME", "")
    if end.isdigit() and begun.isdigit():
        limit = float(end) - float(begun)
        return max(0.0, float(end) - time.time() - margin(limit)) / 3600
    return None if seconds is None else max(0.0, seconds - margin(seconds)) / 3600


def margin(seconds: float) -> float:
    """Return the seconds before a time limit at which a worker stops."""
    return min(MARGIN_SECONDS, MOST_MARGIN * seconds)


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


def seconds_of(text: str) -> float:
    """Return the seconds of a time limit as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        RequestError: it is none, or it is 0.

    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise RequestError(f"--time {text} is no time of Slurm: write 90, 2:00:00 or 1-12:00:00")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        total = ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    elif len(parts) == 3:
        total = (parts[0] * 60 + parts[1]) * 60 + parts[2]
    else:
        minutes, seconds = (*parts, 0)[:2]
        total = minutes * 60 + seconds
    if total == 0:
        raise RequestError(f"--time {text} leaves no time")
    return float(total)


def keys(given: Iterable[str]) -> dict[str, str | bool]:
    """Return further options of sbatch from texts KEY=VALUE; KEY alone is a switch.

    Raises:
        RequestError: a text names no option.

    """
    read: dict[str, str | bool] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or "\n" in value:
            raise RequestError(f"--slurm {text}: write KEY=VALUE, as in --slurm qos=high")
        if name in TAKEN:
            raise RequestError(f"--slurm {name}: {TAKEN[name]}")
        read[name] = value if equals else True
    return read


def script(order: Order, request: Request) -> str:
    """Return the script that `submit` gives to sbatch.

    Raises:
        RequestError: Slurm or submitit is not installed, or an option cannot be used.

    """
    executor = _executor(order, request)
    executor.parameters |= {"map_count": request.workers} if request.workers > 1 else {}
    command = executor._submitit_command_str  # noqa: SLF001  # submitit shows it nowhere else
    return str(executor._make_submission_file_text(command, order.launch))  # noqa: SLF001


def submit(order: Order, request: Request) -> list[str]:
    """Submit the workers, and return the ids of their jobs.

    Raises:
        RequestError: Slurm refuses them, in its own words.

    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = _executor(order, request)
    limit = None if request.time is None else seconds_of(request.time)
    worker = SlurmWorker(order, limit)
    try:
        # submitit prints Slurm's errors too.
        with redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(worker) for _ in range(request.workers)]
        return [str(job.job_id) for job in jobs]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise RequestError(f"Slurm refuses the workers: {words(str(error))}") from error


def _executor(order: Order, request: Request) -> SlurmExecutor:
    """Return submitit's executor with all parameters of the jobs."""
    try:
        import submitit
    except ImportError as error:
        raise RequestError("submitit is not installed: pip install 'fedsweep[cluster]'") from error
    _require_slurm()
    folder = Path(order.folder)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=WITHOUT_LIMIT)
    limit = None if request.time is None else seconds_of(request.time)
    seconds = math.ceil(margin(limit or 4 * MARGIN_SECONDS))
    more: dict[str, Any] = {"requeue": True, "signal": f"{LIMIT_SIGNAL}@{seconds}", **request.more}
    if request.mem is not None:
        more["mem"] = request.mem
    if request.gpus:
        more["gpus-per-node"] = request.gpus
    if request.time is not None:
        more["time"] = request.time
    given = {
        "job_name": f"{JOB_NAME}-{order.launch}",
        "partition": request.partition,
        "account": request.account,
        "cpus_per_task": request.cpus,
        "setup": [f"export SUBMITIT_PREEMPT_SIGNAL={LIMIT_SIGNAL}", *request.setup],
        "array_parallelism": request.workers,
        "stderr_to_stdout": True,
        "additional_parameters": more,
        # For submitit, which takes an early end for a preemption. --time itself is in `more`.
        "time": None if limit is None else math.ceil(limit / 60),
    }
    try:
        executor.update_parameters(**{name: v for name, v in given.items() if v is not None})
    except (TypeError, ValueError) as error:
        raise RequestError(f"an option for Slurm cannot be used: {words(str(error))}") from error
    executor.parameters["wckey"] = None  # submitit's own name, which a cluster may not know
    if request.time is None:
        executor.parameters["time"] = None  # without the key, submitit would ask for 5 minutes
    return executor


def _require_slurm() -> None:
    import shutil

    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if missing:
        raise RequestError(
            f"Slurm is not installed here ({missing[0]} is not on the PATH): run this on the "
            "cluster's login node"
        )


class Slurm:
    """The jobs of launches on Slurm."""

    def jobs(self, launch: Launch) -> list[Job]:
        """Return the jobs that Slurm remembers; it forgets an ended one after some minutes."""
        arrays = sorted({job.partition("_")[0] for job in launch.jobs})
        text = _ask(
            *("squeue", "--noheader", "--array", "--states", "all", "--jobs", ",".join(arrays)),
            *("--format", "%i|%T|%r|%N"),
        )
        told = {}
        for line in text.splitlines():
            number, state, reason, node = (*line.strip().split("|"), "", "", "")[:4]
            told[number] = Job(
                number, state_of(state), "" if reason == "None" else reason, node.strip()
            )
        return [told.get(job, Job(job, "ended", "Slurm no longer knows it")) for job in launch.jobs]

    def logs(self, launch: Launch) -> Mapping[str, list[Path]]:
        """Return the file of each task that has begun."""
        folder = Path(launch.folder)
        files = {job: folder / f"{job}_0_log.out" for job in launch.jobs}
        return {job: [file] for job, file in files.items() if file.is_file()}

    def stop(self, launch: Launch) -> None:
        """Cancel what waits, and let what runs finish its round."""
        jobs = [job for job in self.jobs(launch) if not job.over]
        if waiting := [job.id for job in jobs if job.state == "pending"]:
            _ask("scancel", "--state=PENDING", *waiting)
        if running := [job.id for job in jobs if job.state == "running"]:
            _ask("scancel", "--signal=TERM", *running)

    def cancel(self, launch: Launch) -> None:
        """Cancel all jobs."""
        _ask("scancel", *sorted({job.partition("_")[0] for job in launch.jobs}))


def state_of(word: str) -> str:
    """Return our word for a state of Slurm's; Slurm's own in lower case if there is none."""
    if word in ENDING:
        return "stopping"
    return RUNS.get(word, "ended" if word == "COMPLETED" else word.lower())


def _ask(*command: str) -> str:
    """Run a command of Slurm and return its output.

    Raises:
        RequestError: it is not installed, fails, or does not answer in time.

    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=ASK_SECONDS, check=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise RequestError(
            f"Slurm is not installed here ({command[0]} is not on the PATH): run this on the "
            "cluster's login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RequestError(f"Slurm does not answer ({shlex.join(command[:1])})") from error
    except subprocess.CalledProcessError as error:
        if "Invalid job id" in error.stderr:  # it has forgotten all of them
            return ""
        raise RequestError(f"Slurm refuses that: {words(error.stderr)}") from error
    return done.stdout


def words(text: str) -> str:
    """Return Slurm's own words, without the name of its program and the traceback around them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [re.sub(r"^\w+: (error: )?", "", line) for line in lines if ": error: " in line]
    return hide_secrets("; ".join(dict.fromkeys(told)) or (lines[-1] if lines else "no reason"))
