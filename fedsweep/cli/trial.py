"""`fedsweep trial`: list, show, cancel, retry, pause and prioritize single trials."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from fedsweep.cli.arguments import MOST_STORED, Db, Sweep, open_store, read_store
from fedsweep.cli.console import console, counted, duration
from fedsweep.errors import visible
from fedsweep.states import RULES, FailureKind, Hold, TrialState
from fedsweep.words import memory_of, ran_with, standing

app = typer.Typer(
    help="List, show, cancel, retry and pause trials.", no_args_is_help=True, rich_markup_mode=None
)

SHOWN = 20
"""Lines of the last attempt's log that `trial show` prints. `trial logs` prints all."""

Trial = Annotated[
    str, typer.Argument(metavar="TRIAL", help="Id of the trial, or a unique prefix of it.")
]
Trials = Annotated[
    list[str], typer.Argument(metavar="TRIAL…", help="Ids of trials, or unique prefixes of them.")
]


@app.command("list", epilog="Example: fedsweep trial list --state failed")
def list_(
    db: Db = None,
    sweep: Sweep = None,
    state: Annotated[
        TrialState | None,
        typer.Option(help="List only trials in this state. Default: all.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10**7, help="Maximum number of trials.")] = 100,
) -> None:
    """List trials in the order of planning."""
    from fedsweep.actions import trial as trials
    from fedsweep.reports.fit import Column, Grid, folding
    from fedsweep.reports.labels import describe

    store = read_store(db)
    rows, varying = trials.list_trials(store, sweep, state, limit + 1), trials.varying(store, sweep)
    columns = [
        Column("trial", left=True),
        Column("state", left=True),
        *map(Column, ("round", "accuracy", "seconds")),
        Column("what", left=True, least=folding),
    ]
    shown = [
        [
            row["trial_id"][:10],
            row["failure"] or row["state"],
            f"{row['final_round'] or 0}/{row['rounds']}",
            f"{row['test_accuracy']:.2%}" if row["test_accuracy"] is not None else "–",
            f"{row['seconds']:.1f}" if row["seconds"] is not None else "–",
            describe(row, varying),
        ]
        for row in rows[:limit]
    ]
    console().print(Grid(columns, shown, boxed=False, keys=2).fitted(console().width))
    if len(rows) > limit:
        print(
            f"more than {counted(limit, 'trial')}: raise --limit, or narrow by --sweep and --state"
        )


@app.command(epilog="Example: fedsweep trial show 3f2a")
def show(trial: Trial, db: Db = None) -> None:
    """Show a trial: its configuration, result, attempts and last log lines."""
    from fedsweep.actions import trial as trials
    from fedsweep.measures import FROM_ALL_ROUNDS, FROM_LAST_ROUND

    details = trials.show(read_store(db), trial, log_lines=SHOWN + 1)
    trial_id, result = details.trial_id, details.result
    print(f"trial {trial_id}  {result['state']}  (planned first by {visible(result['sweep'])})")
    for line in standing(trial_id, result, details.standing):
        print(f"  {visible(line)}")
    print("\nconfiguration")
    _print_pairs(json.loads(result["config"]))
    names = ("final_round", *FROM_LAST_ROUND, *FROM_ALL_ROUNDS, "numerics_id")
    measures = {name: result[name] for name in names if result[name] is not None}
    if measures:
        print("\nresult")
        _print_pairs(measures)
    if result["error"]:
        print(f"\n{result['failure']}: {visible(result['error'])}")
    kinds = {a["failure"]: None for a in [*details.attempts, result] if a["failure"]}
    if kinds:
        print("\nafter a failure")
        _print_pairs({kind: RULES[FailureKind(kind)] for kind in kinds})
    print(f"\n{counted(len(details.attempts), 'attempt')}")
    for attempt in details.attempts:
        _print_attempt(attempt)
    if details.log:
        more = len(details.log) > SHOWN
        earlier = ": the last lines; fedsweep trial logs shows all" if more else ""
        print(f"\nlog of attempt {details.last_fence}{earlier}")
        _print_log(details.log[-SHOWN:])


@app.command(epilog="Example: fedsweep trial logs 3f2a --attempt 1")
def logs(
    trial: Trial,
    attempt: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_STORED,
            help="Number of the attempt. Default: all attempts.",
            show_default=False,
        ),
    ] = None,
    db: Db = None,
) -> None:
    """Show the log lines of a trial's attempts."""
    from fedsweep.actions import trial as trials

    for fence, lines in trials.logs(read_store(db), trial, attempt).items():
        print(f"attempt {fence}" + ("" if lines else ": nothing was kept"))
        _print_log(lines)


def _print_pairs(pairs: dict[str, Any]) -> None:
    from fedsweep.reports.fit import pair_lines

    lines = pair_lines([(name, str(value)) for name, value in pairs.items()], console().width)
    console().print(*lines, sep="\n")


def _print_attempt(attempt: dict[str, Any]) -> None:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["started_at"]))
    took = duration((attempt["ended_at"] or time.time()) - attempt["started_at"])
    outcome = attempt["outcome"] or "running"
    kind = f" ({attempt['failure']})" if attempt["failure"] else ""
    rounds = f"{attempt['rounds_trained']} rounds"
    lost = f", {attempt['rounds_lost']} of them again" if attempt["rounds_lost"] else ""
    lost += f", {memory}" if (memory := memory_of(attempt)) else ""
    print(
        f"  {attempt['fence']}. {outcome}{kind} after {took}: {rounds}{lost}, "
        f"{visible(attempt['device'])} of {visible(attempt['worker'])}, {began}"
    )
    for line in ran_with(attempt):
        print(f"     {visible(line)}")
    if attempt["error"]:
        print(f"     {visible(attempt['error'])}")
    for line in (attempt["traceback"] or "").splitlines():
        print(f"     | {visible(line)}")


def _print_log(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["at"]))
        print(f"  {at} {visible(line['level']):<8} {visible(line['message'])}")


@app.command(epilog="Example: fedsweep trial retry 3f2a")
def retry(trials: Trials, db: Db = None) -> None:
    """Queue failed or cancelled trials again."""
    from fedsweep.actions import trial

    print(f"{counted(trial.retry(open_store(db), trials), 'trial')} queued again")


@app.command(epilog="Example: fedsweep trial cancel 3f2a 9c41")
def cancel(trials: Trials, db: Db = None) -> None:
    """Cancel queued or running trials.

    A running trial stops at its next write.
    """
    from fedsweep.actions import trial

    print(f"{counted(trial.cancel(open_store(db), trials), 'trial')} cancelled")


@app.command(epilog="Example: fedsweep trial pause 3f2a")
def pause(trials: Trials, db: Db = None) -> None:
    """Pause trials.

    Running trials finish the round, are saved and given back, all within a lease.
    """
    print(f"{counted(_hold(trials, Hold.PAUSE, db), 'trial')} paused")


@app.command(epilog="Example: fedsweep trial drain 3f2a")
def drain(trials: Trials, db: Db = None) -> None:
    """Do not start trials any more; running trials continue to their end."""
    print(f"{counted(_hold(trials, Hold.DRAIN, db), 'trial')} drained")


@app.command(epilog="Example: fedsweep trial resume 3f2a")
def resume(trials: Trials, db: Db = None) -> None:
    """Resume paused or drained trials."""
    print(f"{counted(_hold(trials, None, db), 'trial')} resumed")


@app.command(epilog="Example: fedsweep trial priority 3f2a --to 10")
def priority(
    trials: Trials,
    number: Annotated[
        int,
        typer.Option(
            "--to",
            metavar="N",
            min=-1000,
            max=1000,
            help="The new priority; the highest runs first.",
        ),
    ],
    db: Db = None,
) -> None:
    """Set the priority of trials."""
    from fedsweep.actions import trial

    count = trial.prioritize(open_store(db), trials, number)
    print(f"{counted(count, 'trial')} at priority {number}")


def _hold(trials: list[str], reason: Hold | None, db: str | None) -> int:
    from fedsweep.actions import trial

    return trial.hold(open_store(db), trials, reason)
