"""`fedsweep trial`: look at single trials, cancel them, try them again."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from fedsweep.cli.arguments import MOST_STORED, Db, Sweep, open_store, read_store
from fedsweep.cli.console import console, counted, duration, size
from fedsweep.errors import NotFound, Refused, visible
from fedsweep.measures import FROM_ALL_ROUNDS, FROM_LAST_ROUND
from fedsweep.states import RULES, FailureKind, Hold, TrialState
from fedsweep.words import ran_with, standing

app = typer.Typer(
    help="Look at trials, cancel them, try them again.", no_args_is_help=True, rich_markup_mode=None
)

SHOWN = 20
"""Lines of the last attempt's log that `trial show` prints."""

Trial = Annotated[str, typer.Argument(metavar="TRIAL", help="An id, or a unique beginning of it.")]
Trials = Annotated[
    list[str], typer.Argument(metavar="TRIAL…", help="Ids, or unique beginnings of them.")
]


@app.command("list")
def list_(
    db: Db = None,
    sweep: Sweep = None,
    state: Annotated[
        TrialState | None, typer.Option(help="Only those in this state.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10**7, help="Rows at most.")] = 100,
) -> None:
    """List trials in the order of planning."""
    from fedsweep.report.fit import Column, Grid, folding
    from fedsweep.report.labels import describe
    from fedsweep.store import sweep_rows, trial_rows
    from fedsweep.store.transactions import reading

    with reading(read_store(db)) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        rows = trial_rows.trial_list(connection, sweep, state, limit + 1)
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
            describe(row),
        ]
        for row in rows[:limit]
    ]
    console().print(Grid(columns, shown, boxed=False, keys=2).fitted(console().width))
    if len(rows) > limit:
        print(f"more than {limit} trials: raise --limit, or narrow by --sweep and --state")


@app.command()
def show(trial: Trial, db: Db = None) -> None:
    """Show a trial: configuration, result, attempts, and what the last one said."""
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import reading

    with reading(read_store(db)) as connection:
        key, trial_id = trial_rows.find_trial(connection, trial)
        result = trial_rows.trial_result(connection, trial_id)
        stands = trial_rows.trial_standing(connection, key)
        attempts = trial_rows.trial_attempts(connection, key)
        last = attempts[-1]["fence"] if attempts else 0
        said = trial_rows.trial_logs(connection, key, last, SHOWN + 1)
    print(f"trial {trial_id}  {result['state']}  (planned first by {visible(result['sweep'])})")
    for line in standing(trial_id, result, stands):
        print(f"  {visible(line)}")
    print("\nconfiguration")
    _print_pairs(json.loads(result["config"]))
    shown = ("final_round", *FROM_LAST_ROUND, *FROM_ALL_ROUNDS, "numerics_id")
    found = {name: result[name] for name in shown if result[name] is not None}
    if found:
        print("\nresult")
        _print_pairs(found)
    if result["error"]:
        print(f"\n{result['failure']}: {visible(result['error'])}")
    kinds = {a["failure"]: None for a in [*attempts, result] if a["failure"]}
    if kinds:
        print("\nafter a failure")
        _print_pairs({kind: RULES[FailureKind(kind)] for kind in kinds})
    print(f"\n{counted(len(attempts), 'attempt')}")
    for attempt in attempts:
        _print_attempt(attempt)
    if said:
        earlier = ": the last lines; fedsweep trial logs shows all" if len(said) > SHOWN else ""
        print(f"\nlog of attempt {last}{earlier}")
        _print_log(said[-SHOWN:])


@app.command()
def logs(
    trial: Trial,
    attempt: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_STORED, help="Only this one, by its number.", show_default=False
        ),
    ] = None,
    db: Db = None,
) -> None:
    """Show what was said during a trial's attempts."""
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import reading

    with reading(read_store(db)) as connection:
        key, trial_id = trial_rows.find_trial(connection, trial)
        fences = [row["fence"] for row in trial_rows.trial_attempts(connection, key)]
        if attempt is not None and attempt not in fences:
            there = f"it has {', '.join(map(str, fences))}" if fences else "it has none yet"
            raise NotFound(f"trial {trial_id} has no attempt {attempt}: {there}")
        said = {
            fence: trial_rows.trial_logs(connection, key, fence)
            for fence in fences
            if attempt in (None, fence)
        }
    for fence, lines in said.items():
        print(f"attempt {fence}" + ("" if lines else ": nothing was kept"))
        _print_log(lines)


def _print_pairs(pairs: dict[str, Any]) -> None:
    from fedsweep.report.fit import pair_lines

    lines = pair_lines([(name, str(value)) for name, value in pairs.items()], console().width)
    console().print(*lines, sep="\n")


def _print_attempt(attempt: dict[str, Any]) -> None:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["started_at"]))
    took = duration((attempt["ended_at"] or time.time()) - attempt["started_at"])
    outcome = attempt["outcome"] or "running"
    kind = f" ({attempt['failure']})" if attempt["failure"] else ""
    rounds = f"{attempt['rounds_trained']} rounds"
    lost = f", {attempt['rounds_lost']} of them again" if attempt["rounds_lost"] else ""
    lost += f", {size(attempt['memory'])} of memory at most" if attempt["memory"] else ""
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


@app.command()
def retry(trials: Trials, db: Db = None) -> None:
    """Queue failed or cancelled trials again."""
    from fedsweep import queue
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        keys = [trial_rows.find_trial(connection, trial)[0] for trial in trials]
        again = queue.retry(connection, keys)
    print(f"{counted(again, 'trial')} queued again")


@app.command()
def cancel(trials: Trials, db: Db = None) -> None:
    """Cancel trials that wait or run.

    A running one stops at its next write.
    """
    from fedsweep import queue
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        found = [trial_rows.find_trial(connection, trial) for trial in trials]
        for key, trial_id in found:
            if not queue.cancel(connection, [key]):
                state = trial_rows.trial_result(connection, trial_id)["state"]
                raise Refused(
                    f"trial {trial_id} is {state}: only queued and running ones can be cancelled"
                )
    print(f"{counted(len(found), 'trial')} cancelled")


@app.command()
def pause(trials: Trials, db: Db = None) -> None:
    """Let trials wait.

    Those that run are saved after the round and given back, within a lease.
    """
    print(f"{counted(_hold(trials, Hold.PAUSE, db), 'trial')} paused")


@app.command()
def drain(trials: Trials, db: Db = None) -> None:
    """Begin trials no more; those that run go on to their end."""
    print(f"{counted(_hold(trials, Hold.DRAIN, db), 'trial')} drained")


@app.command()
def resume(trials: Trials, db: Db = None) -> None:
    """Let trials that were paused or drained go on."""
    print(f"{counted(_hold(trials, None, db), 'trial')} let go on")


@app.command()
def priority(
    trials: Trials,
    number: Annotated[
        int, typer.Option("--to", metavar="N", min=-1000, max=1000, help="More runs first.")
    ],
    db: Db = None,
) -> None:
    """Let trials run before those of less priority."""
    from fedsweep import queue
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        keys = [trial_rows.find_trial(connection, trial)[0] for trial in trials]
        count = queue.prioritize(connection, keys, number)
    print(f"{counted(count, 'trial')} at priority {number}")


def _hold(trials: list[str], wish: Hold | None, db: str | None) -> int:
    from fedsweep import queue
    from fedsweep.store import trial_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        found = [trial_rows.find_trial(connection, trial) for trial in trials]
        for key, trial_id in found:
            if not queue.hold(connection, [key], wish):
                state = trial_rows.trial_result(connection, trial_id)["state"]
                raise Refused(
                    f"trial {trial_id} is {state}: only what is queued or running can be held"
                )
    return len(found)
