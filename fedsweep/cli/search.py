"""`fedsweep search`: follow the searches of the best freeze round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, keep_showing
from fedsweep.errors import NotFound, RequestError, hide_secrets
from fedsweep.report.search_results import read_search_results

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy.engine import Connection, Engine

    from fedsweep.report.search_results import SearchResult


app = typer.Typer(
    help="Follow the searches of the best freeze round.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show(
    db: Db = None,
    sweep: Sweep = None,
    arm: Annotated[
        str | None,
        typer.Option(
            "--arm",
            metavar="ARM",
            help="Only this arm, with each proposal and why.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of arms.")] = False,
) -> None:
    """Say what each arm's best T* is as far as it is known, and what was tried."""
    from fedsweep.report.search_results import record

    engine = read_store(db)
    if as_json:
        print(json.dumps([record(f) for f in _found(engine, sweep, arm)], indent=2))
        return
    if not watch:
        console().print(*_shown(_found(engine, sweep, arm), proposals=arm is not None), sep="\n")
        return
    from rich.console import Group

    keep_showing(lambda: Group(*_shown(_found(engine, sweep, arm), proposals=arm is not None)))


@app.command()
def export(
    storage: Annotated[
        str,
        typer.Option(
            "--storage", metavar="URL", help="Where Optuna keeps it: sqlite:///study.db, say."
        ),
    ],
    db: Db = None,
    sweep: Sweep = None,
) -> None:
    """Write each arm as a study that Optuna's own tools open, optuna-dashboard for one.

    A trial for each T*: its value, its seeds' values, and the metric by round. A study that is
    there already is written anew.
    """
    from fedsweep.search.export import export as write
    from fedsweep.store import arms
    from fedsweep.store.targets import refuse_own
    from fedsweep.store.transactions import reading

    engine = read_store(db)
    refuse_own(engine, storage, "--storage")
    with reading(engine) as connection:
        written = [
            write(connection, arm, storage)
            for name in _searched(connection, sweep)
            for arm in arms.of_sweep(connection, name)
        ]
    for name, count in written:
        print(f"{name}: {counted(count, 'trial')}")
    print(f"open it: optuna-dashboard {hide_secrets(storage)}")


def _searched(connection: Connection, sweep: str | None) -> list[str]:
    """The sweeps that search, or the one that is named."""
    from fedsweep.store import arms, sweep_rows

    names = sweep_rows.named_or_all(connection, sweep)
    found = [name for name in names if arms.of_sweep(connection, name)]
    if not found:
        which = f"sweep {sweep} has no" if sweep else "no sweep here has a"
        raise NotFound(f"{which} [search] section: nothing is searched")
    return found


def _found(engine: Engine, sweep: str | None, arm: str | None) -> list[SearchResult]:
    from fedsweep.store.transactions import reading

    with reading(engine) as connection:
        found = [
            f
            for name in _searched(connection, sweep)
            for f in read_search_results(connection, name)
        ]
    if arm is None:
        return found
    some = [f for f in found if f.arm.spec.arm_id.startswith(arm)]
    if not some:
        ids = ", ".join(f.arm.spec.arm_id[:8] for f in found)
        raise RequestError(f"there is no arm {arm!r}: there are {ids}")
    return some


def _shown(found: Sequence[SearchResult], *, proposals: bool) -> list[RenderableType]:
    from fedsweep.report import search_tables

    by_sweep: dict[str, list[SearchResult]] = {}
    for finding in found:
        by_sweep.setdefault(finding.arm.sweep_name, []).append(finding)
    shown: list[RenderableType] = [
        part for some in by_sweep.values() for part in search_tables.terminal(some, console().width)
    ]
    if proposals:
        shown += [_proposals(finding) for finding in found]
    return shown


def _proposals(finding: SearchResult) -> RenderableType:
    from fedsweep.report.fit import Column, Grid, folding

    at = {probe.freeze_round: probe for probe in finding.history}
    rows = []
    for p in finding.proposals:
        probe = at.get(p.freeze_round) if p.freeze_round is not None and p.seed is None else None
        values = list(probe.values.values()) if probe else []
        mean = f"{100 * sum(values) / len(values):.2f}" if values else "–"
        rows.append(
            [
                str(p.number),
                "–" if p.freeze_round is None else str(p.freeze_round),
                "all" if p.seed is None else str(p.seed),
                f"{p.cost:,}",
                f"{mean} …" if probe and probe.pending else mean,
                p.why,
            ]
        )
    numbers = [Column(name) for name in ("#", "T⋆", "seed", "rounds", "mean, %")]
    title = f"arm {finding.arm.spec.arm_id}"
    grid = Grid([*numbers, Column("why", left=True, least=folding)], rows, title=title)
    return grid.fitted(console().width)
