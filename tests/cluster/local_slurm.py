"""A real Slurm on this machine: a slurmctld, two slurmd and munge, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2")
SECONDS = 60.0
"""The limit for everything that a test waits for here."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=5
OverTimeLimit=0
InactiveLimit=0
SlurmdTimeout=20
SchedulerParameters=sched_interval=2,bf_interval=2,default_queue_depth=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=300
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[0]} CPUs=2 RealMemory=4000
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=2 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=closed Nodes=n1,n2 AllowGroups=root MaxTime=INFINITE State=UP
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why there can be no Slurm here; "" if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    return ""


@dataclass
class LocalSlurm:
    """A running Slurm."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variable that every client of this Slurm needs."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """Run a command of Slurm and return its output."""
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True,
            timeout=SECONDS, check=True,
        ).stdout  # fmt: skip

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        command = ["slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", node]
        self.daemons[node] = self._start(command, f"slurmd.{node}.out")

    def kill_node(self, node: str) -> None:
        """Kill a node as a power cut does: its slurmd and every process of its jobs."""
        mine = [p for p in _processes() if p.environment.get("SLURMD_NODENAME") == node]
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in mine:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def wait_for_nodes(self, count: int = len(NODES)) -> None:
        """Wait until so many nodes are idle.

        A node that was killed first ends the steps of its lost jobs, for a minute or more.
        """
        wait(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "low", "-t", "idle").count("idle") == count,
            5 * SECONDS,
        )

    def states(self, launch: str) -> dict[str, str]:
        """Return the state of each task of a launch that Slurm remembers."""
        named = ("--name", f"fedsweep-{launch}", "-o", "%i %T")
        lines = self.ask("squeue", "-h", "-r", "-t", "all", *named).splitlines()
        return dict(line.split() for line in lines)

    def _start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            return subprocess.Popen(
                command, env=os.environ | self.environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip


def wait(happened: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("it has not happened")
        time.sleep(0.1)


@dataclass(frozen=True)
class _Process:
    pid: int
    environment: dict[str, str]


def _processes() -> Iterator[_Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (folder / "environ").read_bytes().decode(errors="replace")
            pairs = (part.partition("=") for part in text.split("\0") if part)
            yield _Process(int(folder.name), {name: value for name, _, value in pairs})


def _ports(count: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def local_slurm(folder: Path) -> Iterator[LocalSlurm]:
    """Start a Slurm of two nodes, and end it with all of its jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool/n1", "spool/n2"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    ports = _ports(3)
    text = CONFIGURATION.format(folder=folder, host=host, controller=ports[0], ports=ports[1:])
    (folder / "slurm.conf").write_text(text)
    munge = folder / "munge"
    munge.mkdir(mode=0o700, exist_ok=True)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    slurm = LocalSlurm(folder)
    command = [
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
        f"--key-file={munge}/key", f"--log-file={munge}/log", f"--pid-file={munge}/pid",
        f"--seed-file={munge}/seed",
    ]  # fmt: skip
    try:
        slurm.daemons["munged"] = slurm._start(command, "munged.out")
        wait((folder / "munge.socket").exists)
        config = ["-f", str(folder / "slurm.conf")]
        slurm.daemons["slurmctld"] = slurm._start(["slurmctld", "-D", *config], "slurmctld.out")
        for node in NODES:
            slurm.start_node(node)
        wait(lambda: _answers(slurm))
        slurm.wait_for_nodes()
        yield slurm
    finally:
        with suppress(subprocess.SubprocessError):
            slurm.ask("scancel", "--signal=KILL", "--full", "--user", "root")
        mine = [
            p.pid
            for p in _processes()
            if p.environment.get("SLURM_CONF") == str(folder / "slurm.conf")
        ]
        for number in mine:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for daemon in slurm.daemons.values():
            daemon.kill()
            daemon.wait()


def _answers(slurm: LocalSlurm) -> bool:
    try:
        slurm.ask("sinfo", "-h")
    except subprocess.CalledProcessError:
        return False
    return True
