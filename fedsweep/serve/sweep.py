"""The screen of one sweep: its table, its figures by arm, search results and plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from fedsweep.fields import label
from fedsweep.reports import freeze_rounds, search_results, search_tables, tables
from fedsweep.reports.freeze_rounds import FreezePanel
from fedsweep.reports.grouping import Summary
from fedsweep.serve import choice, presentation, sweep_figures
from fedsweep.serve.choice import Choice, choose
from fedsweep.serve.csv_table import CsvTable
from fedsweep.serve.read_cache import PLAN_TICKS, PROGRESS_TICKS, ReadCache
from fedsweep.serve.screen import Part, Screen, csv_address, part
from fedsweep.serve.sweep_figures import ArmCurve
from fedsweep.serve.totals import TABLE_MEASURES, Shape, filled, shape_of
from fedsweep.store import arms, browse, sweep_rows
from fedsweep.store.progress import sweep_progress

CURVE_TICKS = 5
"""Ticks for which curves and search results are cached, because they are the slowest reads."""
PARAMETERS = ("sweep", *choice.PARAMETERS)
"""All query parameters of the screen."""


def sweep(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen of a sweep, with the table of `fedsweep report`.

    Raises:
        NotFound: there is no sweep of that name.

    """
    chosen = _chosen(cache, query)
    name, c = chosen.name, chosen.choice
    listed = [p for p in cache.read(sweep_progress, ticks=PROGRESS_TICKS) if p.sweep == name]
    (progress,) = listed or cache.read(sweep_progress, name)  # the cached list may be older
    findings = cache.read(_search_tables, name, ticks=CURVE_TICKS)
    plans = cache.read(sweep_rows.plan_texts, name, ticks=PLAN_TICKS)
    links = {figure: csv_address("sweep", figure, query) for figure in TABLES}
    freeze_parts = [
        part("freeze-figure", "sweep_by_freeze_round.html", live=False),
        part("freeze-notes", "sweep_freeze_notes.html", c=c,
             link=links["accuracy-by-freeze-round"], is_empty=chosen.by_freeze_round is None),
    ]  # fmt: skip
    parts = [
        part("standing", "sweep_standing.html", p=progress, presentation=presentation,
             states=chosen.states),
        part("choose", "sweep_choice.html", name=name, c=c),
        part("rounds-figure", "sweep_by_round.html", live=False, query=query),
        part("rounds-notes", "sweep_notes.html", c=c, tables=tables,
             link=links["accuracy-by-round"], pooled=_pooled(c.shape.empty)),
        *(freeze_parts if c.shape.has_freeze_rounds else []),
        chosen.table,
        part("search", "sweep_search.html", findings=findings),
        part("plan", "sweep_plan.html", live=False, plans=plans),
    ]  # fmt: skip
    figures = {"arms": sweep_figures.by_round(c, _curves(cache, chosen))}
    if c.shape.has_freeze_rounds:
        figures["by-freeze-round"] = sweep_figures.by_freeze_round(c, chosen.by_freeze_round)
    return Screen("overview", f"Sweep {name}", parts, figures=figures, draws=True)


def _pooled(summary: Summary) -> str:
    """Return the names of the fields that the rows pool, such as "α and E"."""
    return " and ".join(label(name) for name in summary.pooled)


@dataclass(frozen=True)
class _Chosen:
    """The part of a sweep that an address chooses, with its numbers."""

    name: str
    choice: Choice
    table: Part
    summary: Summary
    states: Mapping[str, int]

    @property
    def by_freeze_round(self) -> FreezePanel | None:
        """Return the panel of the figure by T⋆; None if no trial with a T⋆ has finished."""
        panels = freeze_rounds.by_freeze_round(self.summary, self.choice.compared)
        return panels.get(self.choice.panel.key)


def _chosen(cache: ReadCache, query: Mapping[str, str]) -> _Chosen:
    """Return the chosen part of a sweep.

    Raises:
        NotFound: there is no sweep of that name.

    """
    name = cache.read(sweep_rows.require_sweep, query.get("sweep", ""))

    def shape(group_by: tuple[str, ...] | None, tuned: tuple[str, ...]) -> Shape:
        def compute() -> Shape:
            cells = cache.read(browse.cells, name, ticks=PLAN_TICKS)
            finals = cache.read(browse.finals, name, ticks=CURVE_TICKS) if tuned else []
            return shape_of(name, cells, group_by, tuned, finals)

        ticks = CURVE_TICKS if tuned else PLAN_TICKS  # results change what is chosen
        return cache.get(("shape", name, group_by, tuned), compute, ticks)

    selected = choose(shape, query)
    cells = tuple(row["cell_id"] for row in selected.shape.cells) if selected.tuned else ()
    table, summary, states = cache.get(
        ("table", name, selected.group_by, selected.tuned, hash(cells)),
        lambda: _table(cache, selected.shape, name),
        PROGRESS_TICKS,
    )
    return _Chosen(name, selected, table, summary, states)


def _table(cache: ReadCache, shape: Shape, name: str) -> tuple[Part, Summary, dict[str, int]]:
    """Return the rendered table of a sweep, its summary, and the number of trials by state."""
    summary, states = filled(shape, cache.read(browse.groups, name, TABLE_MEASURES))
    table = part("table", "sweep_table.html", s=summary, tables=tables, pooled=_pooled(summary))
    return table, summary, states


def _curves(cache: ReadCache, chosen: _Chosen) -> list[ArmCurve]:
    c = chosen.choice
    ids = tuple(row["cell_id"] for column in c.drawn for row in c.panel.cells[column])
    curves = cache.read(browse.mean_curves, chosen.name, ids, ticks=CURVE_TICKS)
    return sweep_figures.arm_curves(c, curves)


def _by_round_table(cache: ReadCache, query: Mapping[str, str]) -> CsvTable:
    chosen = _chosen(cache, query)
    return sweep_figures.by_round_table(chosen.choice, _curves(cache, chosen))


def _by_freeze_round_table(cache: ReadCache, query: Mapping[str, str]) -> CsvTable:
    chosen = _chosen(cache, query)
    return sweep_figures.by_freeze_round_table(chosen.choice, chosen.by_freeze_round)


TABLES = {
    "accuracy-by-round": _by_round_table,
    "accuracy-by-freeze-round": _by_freeze_round_table,
}
"""The data of the figures, by the names that the files of `report --figures` have."""


def _search_tables(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the search results of a sweep as text, or None if it has no search."""
    if not arms.of_sweep(connection, name):
        return None
    findings = search_results.read_search_results(connection, name, browse.finals(connection, name))
    headings, lines = search_tables.rows(findings)
    return {"headings": headings, "lines": lines, "notes": search_tables.notes(findings)}
