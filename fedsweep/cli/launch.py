"""`fedsweep launch`: start workers through a scheduler; list, read and stop them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Data, Db, Sweep, open_store, read_store
from fedsweep.cli.console import console, counted

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from fedsweep.launch.launches import Known
    from fedsweep.launch.order import Order
    from fedsweep.store.launches import Launch

app = typer.Typer(help="Start workers on a cluster.", no_args_is_help=True, rich_markup_mode=None)

SHOWN = 20
"""Jobs of each launch that `list` names one by one: the newest that live or have a reason."""

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="FOLDER",
        help="Folder of the launches' logs, on storage that all nodes see. Default: launches in "
        "this folder.",
        show_default=False,
    ),
]
Slots = Annotated[
    str, typer.Option(metavar="N|auto", help="Trials that each worker trains at the same time.")
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda", help="Device that each worker trains on.")
]
Engine_ = Annotated[
    str, typer.Option("--engine", metavar="auto|seq|stack", help="Engine of the workers.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Threads of torch per slot. Default: the worker's CPUs.", show_default=False
    ),
]
MaxAttempts = Annotated[
    int, typer.Option(min=1, help="Failures after which a trial is not retried.")
]
Lease = Annotated[
    float,
    typer.Option(
        min=1.0,
        max=21600.0,
        help="Seconds after which another worker may claim a silent worker's trial.",
    ),
]
Grace = Annotated[
    float, typer.Option(min=0.0, help="Seconds to finish the round after a stop signal.")
]
Artifacts = Annotated[
    list[str] | None,
    typer.Option(
        "--artifacts",
        metavar="URL",
        help="Approve a folder or URL that the database names for its files; repeatable.",
        show_default=False,
    ),
]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        metavar="URL",
        help="Webhook of the workers; repeatable. Default: $FEDSWEEP_NOTIFY.",
        show_default=False,
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME",
        help="Variable of this shell that the workers get too; repeatable. FEDSWEEP_*, PG*, AWS_*, "
        "GOOGLE_*, AZURE_* and FSSPEC_* are passed on anyway.",
        show_default=False,
    ),
]
Id = Annotated[str, typer.Argument(metavar="LAUNCH", help="The launch's id, or its first letters.")]


@app.command(epilog="Example: fedsweep launch slurm --workers 8 --gpus-per-worker 1")
def slurm(
    db: Db = None,
    sweep: Sweep = None,
    workers: Annotated[int, typer.Option(min=1, help="Most workers: a job array's tasks.")] = 1,
    gpus_per_worker: Annotated[int, typer.Option(min=0, help="GPUs of each worker.")] = 0,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPUs of each worker.")] = 1,
    mem: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory of each worker, as in 8G. Default: the partition's."
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT",
            help="Time limit of a job, as in 2:00:00. A worker resumes in a new one. Default: the "
            "partition's.",
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="Further option of sbatch; repeatable.",
            show_default=False,
        ),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND",
            help="Shell command of the job before the worker starts; repeatable.",
            show_default=False,
        ),
    ] = None,
    slots: Slots = "auto",
    device: Device = "auto",
    threads: Threads = None,
    engine: Engine_ = "auto",
    max_attempts: MaxAttempts = 3,
    lease: Lease = 15.0,
    grace: Grace = 20.0,
    data: Data = None,
    artifacts: Artifacts = None,
    notify: Notify = None,
    env: Env = None,
    folder: Folder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script, and submit nothing.")
    ] = False,
) -> None:
    """Start workers as a Slurm job array.

    They stop when no trial is left. A worker that is preempted, or reaches its job's time limit,
    finishes its round, saves it, and is queued again.
    """
    from fedsweep.launch import launches
    from fedsweep.launch import slurm as cluster

    engine_ = open_store(db)
    left = launches.trials_left(engine_, sweep)
    order = _order(
        "slurm", folder, sweep=sweep, slots=slots, device=device,
        threads=threads or cpus_per_worker, engine=engine, max_attempts=max_attempts, lease=lease,
        grace=grace, data=data, artifacts=artifacts,
    )  # fmt: skip
    request = cluster.Request(
        workers=max(1, min(workers, left)),
        gpus=gpus_per_worker,
        cpus=cpus_per_worker,
        mem=mem,
        time=time,
        partition=partition,
        account=account,
        setup=tuple(setup or ()),
        more=cluster.keys(slurm or ()),
    )
    if dry_run:
        print(cluster.script(order, request), end="")
        return
    if not _some_left(left, workers):
        return
    _say_notes(engine_, sweep)
    variables = _variables(engine_, notify, env)
    asked = {**order.options(), **request.options()}
    submit = partial(cluster.submit, order, request)
    launch = launches.start(engine_, order, variables, request.workers, asked, submit)
    _launched(launch)


@app.command(epilog="Example: fedsweep launch ray --workers 0:16 --gpus-per-worker 0.5 --wait")
def ray(
    db: Db = None,
    sweep: Sweep = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Most workers, or the least and the most. There are as many as trials are left.",
        ),
    ] = "1",
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.0, help="GPUs of each worker, as in 1 or 0.5.")
    ] = 0.0,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPUs of each worker.")] = 1,
    mem: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that Ray reserves for each worker, as in 8G. Default: none.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of Ray's head, or ray://HOST:PORT. Default: $RAY_ADDRESS, otherwise the "
            "Ray of this machine.",
            show_default=False,
        ),
    ] = None,
    slots: Slots = "auto",
    device: Device = "auto",
    threads: Threads = None,
    engine: Engine_ = "auto",
    max_attempts: MaxAttempts = 3,
    lease: Lease = 15.0,
    grace: Grace = 20.0,
    data: Data = None,
    artifacts: Artifacts = None,
    notify: Notify = None,
    env: Env = None,
    folder: Folder = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Show the progress until all workers end. Ctrl-C only stops it."
        ),
    ] = False,
) -> None:
    """Start workers as actors of a Ray cluster.

    A supervisor in the cluster starts as many as trials are left, within --workers. It continues
    after this command. Ray starts a worker again if its node dies. Workers stop when no trial is
    left.
    """
    from fedsweep.launch import fleet, launches
    from fedsweep.launch import ray as cluster
    from fedsweep.launch.actors import Secret

    request = cluster.Request(
        size=fleet.size_of(workers), gpus=gpus_per_worker, cpus=cpus_per_worker, mem=mem
    )
    request.check()
    engine_ = open_store(db)
    left = launches.trials_left(engine_, sweep)
    order = _order(
        "ray", folder, sweep=sweep, slots=slots, device=device,
        threads=threads or cpus_per_worker, engine=engine, max_attempts=max_attempts, lease=lease,
        grace=grace, data=data, artifacts=artifacts,
    )  # fmt: skip
    if not _some_left(left, request.size.most):
        return
    variables = _variables(engine_, notify, env)
    with cluster.connected(address) as head:
        _say_notes(engine_, sweep)
        if note := cluster.missing_resources(request):
            print(note)
        asked = {**order.options(), **request.options(), "address": head}
        submit = partial(cluster.submit, order, request, Secret(variables))
        launch = launches.start(engine_, order, None, request.size.most, asked, submit)
        print(f"launch {order.launch}: {_most(request.size.wanted(left))} on the Ray at {head}")
        print(f"fedsweep launch list; fedsweep launch logs {order.launch}", flush=True)
        if wait:
            _follow(engine_, launch, cluster.poll_seconds())


@app.command("list", epilog="Example: fedsweep launch list --db sqlite:///study.db")
def list_(db: Db = None) -> None:
    """List the launches: their jobs as the scheduler tells them, and the trials that they train."""
    from fedsweep.launch import launches

    known = launches.known(read_store(db))
    if not known:
        print("nothing was launched from this database")
        return
    console().print(_table(known))
    for one in known:
        if one.error:
            print(f"{one.launch.id}: {one.error}")
        for job in [job for job in one.jobs if job.reason or not job.over][-SHOWN:]:
            node = f" on {job.node}" if job.node else ""
            print(f"{job.id}: {job.state}{node}" + (f": {job.reason}" if job.reason else ""))


@app.command(epilog="Example: fedsweep launch logs 3f2a --lines 50")
def logs(
    launch: Id,
    db: Db = None,
    job: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this job. Default: all.")
    ] = None,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of each job.")] = 20,
) -> None:
    """Print the ends of the workers' logs."""
    from fedsweep.launch import launches

    found = launches.find(read_store(db), launch)
    for name, line in launches.log_lines(found, job, lines):
        print(f"{name}: {line}")


@app.command(epilog="Example: fedsweep launch stop 3f2a")
def stop(
    launch: Id,
    db: Db = None,
    now: Annotated[
        bool, typer.Option("--now", help="Cancel the jobs at once; a lease later, others resume.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for the workers before their jobs end.")
    ] = 60.0,
) -> None:
    """Stop a launch: its workers finish their rounds and give their trials back.

    Jobs that still run after --wait are canceled. The sweep itself is not stopped: other workers
    continue with it.
    """
    from fedsweep.launch import launches

    engine = open_store(db)
    found = launches.find(engine, launch)
    shown: list[str] = []

    def show(known: Known) -> None:
        text = _states(known)
        if shown[-1:] != [text]:
            shown.append(text)
            print(f"{found.id}: {text}", flush=True)

    alone = launches.stop(engine, found, wait, show, now=now)
    print(f"{found.id}: stopped" + ("" if alone else ", jobs canceled"))


def _order(
    kind: str,
    folder: Path | None,
    *,
    sweep: str | None,
    slots: str,
    device: str,
    threads: int,
    engine: str,
    max_attempts: int,
    lease: float,
    grace: float,
    data: Path | None,
    artifacts: list[str] | None,
) -> Order:
    """Return the order of a launch with a new id."""
    from fedsweep.launch import launches
    from fedsweep.launch.order import Order
    from fedsweep.settings import data_folder
    from fedsweep.store import places

    identity = launches.identity()
    named = data_folder(data)
    return Order(
        launch=identity,
        kind=kind,
        home=str(Path.cwd()) if kind == "ray" else None,
        folder=str((folder or Path(launches.FOLDER)).absolute() / identity),
        sweep=sweep,
        slots=slots,
        device=device,
        threads=threads,
        engine=engine,
        max_attempts=max_attempts,
        lease=lease,
        grace=grace,
        data=None if named is None else str(named),
        artifacts=tuple(places.parse(place) for place in artifacts or ()),
    )


def _variables(engine: Engine, notify: list[str] | None, env: list[str] | None) -> dict[str, str]:
    """Return the environment of the workers."""
    from fedsweep.launch import environment
    from fedsweep.notify import webhook

    for address in notify or ():
        webhook.checked(address)
    address = engine.url.render_as_string(hide_password=False)
    return environment.gather(address, notify or (), env or ())


def _some_left(left: int, workers: int) -> bool:
    """Say how many workers are launched; return False if there is nothing to do."""
    if left == 0:
        print("no trial is queued or running: nothing was launched")
    elif left < workers:
        print(f"{counted(left, 'trial')} left: no more workers than that")
    return left > 0


def _say_notes(engine: Engine, sweep: str | None) -> None:
    """Say which files other nodes may not see."""
    from fedsweep.launch import launches

    for note in launches.notes(engine, sweep):
        print(note)


def _launched(launch: Launch) -> None:
    """Say what was launched, and what to do next."""
    jobs = launch.jobs
    named = f"{jobs[0]} to {jobs[-1]}" if len(jobs) > 1 else jobs[0]
    print(f"launch {launch.id}: {counted(launch.workers, 'worker')} on {launch.kind}, job {named}")
    print(f"fedsweep launch list; fedsweep launch logs {launch.id}")


def _most(workers: int) -> str:
    return counted(workers, "worker")


def _follow(engine: Engine, launch: Launch, seconds: float) -> None:
    """Print the progress of a launch until it ends, or until Ctrl-C."""
    from fedsweep.launch import launches

    try:
        for line in launches.follow(engine, launch, seconds):
            print(line, flush=True)
    except KeyboardInterrupt:
        print(f"launch {launch.id} continues: fedsweep launch stop {launch.id} ends it")
        raise typer.Exit from None
    print(f"launch {launch.id} has ended")


def _states(known: Known) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in known.states.items())
    return counts or "no job"


def _table(known: list[Known]) -> object:
    """Return the table of launches, fitted to the terminal."""
    from datetime import datetime

    from fedsweep.reports.fit import Column, Grid, eliding

    rows = [
        [
            one.launch.id,
            one.launch.kind,
            one.launch.sweep or "all",
            datetime.fromtimestamp(one.launch.at).astimezone().strftime("%Y-%m-%d %H:%M"),
            f"{one.launch.person}@{one.launch.host}",
            str(one.launch.workers),
            "unknown" if one.error else _states(one),
            str(one.training or "–"),
            one.launch.folder,
        ]
        for one in known
    ]
    columns = [
        Column("launch", left=True),
        Column("on", left=True),
        Column("sweep", left=True, least=eliding, elides=True),
        Column("when", left=True, leave_out=2),
        Column("by", left=True, leave_out=3),
        Column("workers"),
        Column("jobs", left=True),
        Column("training"),
        Column("folder", left=True, least=eliding, elides=True, leave_out=1),
    ]
    return Grid(columns, rows, boxed=False).fitted(console().width)
