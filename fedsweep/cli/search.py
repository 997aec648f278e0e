"""`fedsweep search`: show and export the searches of the best freeze round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, keep_showing
from fedsweep.errors import hide_secrets

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedsweep.reports.search_results import SearchResult


app = typer.Typer(
    help="Show and export the searches of the best freeze round.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: fedsweep search show --sweep study --watch")
def show(
    db: Db = None,
    sweep: Sweep = None,
    arm: Annotated[
        str | None,
        typer.Option(
            "--arm",
            metavar="ARM",
            help="Show only this arm, with the reason of each proposal. Default: all arms.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update the output until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of arms.")] = False,
) -> None:
    """Show each arm's best T* so far, and the T* that were tried."""
    from fedsweep.actions import search
    from fedsweep.reports.search_results import record

    engine = read_store(db)
    if as_json:
        print(json.dumps([record(f) for f in search.find(engine, sweep, arm)], indent=2))
        return

    def tables() -> list[RenderableType]:
        return _tables(search.find(engine, sweep, arm), proposals=arm is not None)

    if not watch:
        console().print(*tables(), sep="\n")
        return
    from rich.console import Group

    keep_showing(lambda: Group(*tables()))


@app.command(epilog="Example: fedsweep search export --storage sqlite:///optuna.db")
def export(
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            metavar="URL",
            help="URL of Optuna's storage, for example sqlite:///optuna.db.",
        ),
    ],
    db: Db = None,
    sweep: Sweep = None,
) -> None:
    """Write each arm as a study for Optuna's tools, for example optuna-dashboard.

    The study has a trial for each T*, with its value, the values of its seeds, and the metric by
    round. A study that exists already is replaced.
    """
    from fedsweep.actions import search

    for name, count in search.export(read_store(db), storage, sweep):
        print(f"{name}: {counted(count, 'trial')}")
    print(f"open it: optuna-dashboard {hide_secrets(storage)}")


def _tables(findings: Sequence[SearchResult], *, proposals: bool) -> list[RenderableType]:
    from fedsweep.reports import search_tables

    by_sweep: dict[str, list[SearchResult]] = {}
    for finding in findings:
        by_sweep.setdefault(finding.arm.sweep_name, []).append(finding)
    tables: list[RenderableType] = [
        table
        for of_sweep in by_sweep.values()
        for table in search_tables.terminal(of_sweep, console().width)
    ]
    if proposals:
        tables += [_proposals(finding) for finding in findings]
    return tables


def _proposals(finding: SearchResult) -> RenderableType:
    from fedsweep.reports.fit import Column, Grid, folding

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
