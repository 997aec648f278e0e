"""The screens "Trials" (a filtered list) and "Trial" (one trial with its rounds)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fedsweep.errors import RequestError
from fedsweep.fields import label
from fedsweep.measures import COMPARABLE, MEASURES, OPTIONAL, SHOWN_BY_ROUND
from fedsweep.serve.csv_table import CsvTable
from fedsweep.serve.read_cache import PLAN_TICKS, ReadCache
from fedsweep.serve.screen import Rounds, Screen, csv_address, part
from fedsweep.states import FailureKind, TrialState
from fedsweep.store import browse, sweep_rows, trial_rows
from fedsweep.store.browse import TrialFilter
from fedsweep.words import ran_with, standing

LOG_LINES = 40
"""Lines that are shown of the last attempt's log."""

HEADINGS = {
    "state": "state",
    "normalizer": "normalizer",
    **{name: label(name) for name in ("alpha", "local_steps", "freeze_round", "momentum", "seed")},
    "final_round": "round",
    **{name: f"{MEASURES[name].samples}, %" for name in ("test_accuracy", "validation_accuracy")},
    "seconds": "seconds",
    "priority": "priority",
}
"""The columns of the list by which it can be sorted, with their headings."""

FILTERS = (
    "sweep",
    "state",
    "failure",
    "normalizer",
    "alpha",
    "local_steps",
    "momentum",
    "seed",
    "id",
)
"""The query parameters that filter the list."""
PARAMETERS = (*FILTERS, "sort", "down", "page")
"""All query parameters of the list."""
TRIAL_PARAMETERS = ("trial", "smooth")
"""The query parameters of the screen of one trial."""
FIGURES = ("accuracy", "loss")
"""The figures of a trial. Each shows the measures of one group of the catalog."""


def trials(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen with one page of the filtered and sorted list of trials."""
    query = {name: query[name].strip() for name in PARAMETERS if query.get(name, "").strip()}
    choices = cache.get("choices", lambda: _choices(cache), PLAN_TICKS)
    error_text = ""
    try:
        selection = read_selection(query)
    except RequestError as error:
        selection, error_text = TrialFilter(prefix="nothing"), str(error)
    count, rows = cache.read(browse.trials_page, selection)
    table = part(
        "list",
        "trial_list.html",
        count=count,
        rows=rows,
        selection=selection,
        error=error_text,
        pages=max(1, math.ceil(count / browse.PAGE)),
        first=browse.PAGE * (selection.page - 1) + 1,
        headings=HEADINGS,
        link=_linker(query),
    )
    form = part("filter", "trial_filter.html", live=False, query=query, choices=choices)
    return Screen("trials", "Trials", [form, table], status=400 if error_text else 200)


def _choices(cache: ReadCache) -> dict[str, list[Any]]:
    values_by_field = cache.read(browse.choices)
    return {
        "sweep": cache.read(sweep_rows.sweep_names),
        "state": list(TrialState),
        "failure": list(FailureKind),
        **{name: [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
           for name, values in values_by_field.items()},
    }  # fmt: skip


def read_selection(query: Mapping[str, str]) -> TrialFilter:
    """Return the filter, order and page that an address selects.

    Raises:
        RequestError: a value is invalid.

    """
    exact = [(name, _value(name, query[name])) for name in browse.EXACT if name in query]
    sort = query.get("sort", "planned")
    if sort not in browse.SORTS:
        raise RequestError(
            f"trials cannot be sorted by {sort!r}: sort by {', '.join(browse.SORTS)}"
        )
    return TrialFilter(
        sweep=query.get("sweep"),
        prefix=query["id"].lower() if "id" in query else None,
        exact=tuple(exact),
        sort=sort,
        down=query.get("down") == "1",
        page=min(max(1, _value("page", query.get("page", "1"))), 10**6),
    )


_NUMBERS: dict[str, Callable[[str], Any]] = {
    "alpha": float, "local_steps": int, "seed": int, "page": int
}  # fmt: skip


def _value(name: str, text: str) -> Any:
    try:
        value = _NUMBERS.get(name, str)(text)
    except ValueError as error:
        raise RequestError(f"{name} = {text!r} is not a number: correct it, or clear it") from error
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RequestError(f"{name} = {text} is too large: correct it, or clear it")
    return value


def _linker(query: Mapping[str, str]) -> Callable[..., str]:
    """Return a function that returns the list's address with changed parameters."""

    def link(**changes: Any) -> str:
        merged = {**query, **changes}
        parameters = {name: value for name, value in merged.items() if value not in ("", None)}
        return f"trials?{urlencode(parameters)}" if parameters else "trials"

    return link


def trial(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen of one trial: state, curves, attempts, log and configuration.

    Raises:
        NotFound: no trial's id begins with the given text.
        RequestError: several do.

    """
    key, trial_id = cache.read(trial_rows.find_trial, query.get("trial", ""))
    result = cache.read(trial_rows.trial_result, trial_id)
    failures = cache.read(trial_rows.trial_standing, key)
    attempts = cache.read(trial_rows.trial_attempts, key)
    last = attempts[-1]["fence"] if attempts else 0
    log = cache.read(trial_rows.trial_logs, key, last, LOG_LINES)
    stored_rounds = cache.read(browse.rounds_after, key, 0)
    config = json.loads(result["config"])
    parts = [
        part(
            "facts",
            "trial_facts.html",
            trial=result,
            finals=[MEASURES[name] for name in COMPARABLE if name not in OPTIONAL],
            lines=list(standing(trial_id, result, failures)),
        ),
        part(
            "curves",
            "trial_curves.html",
            live=False,
            rounds=stored_rounds,
            measures=SHOWN_BY_ROUND,
            query=query,
            trial_id=trial_id,
            links={name: csv_address("trial", name, {"trial": trial_id}) for name in FIGURES},
        ),
        part("compare", "trial_compare.html", live=False, trial_id=trial_id),
        part("attempts", "trial_attempts.html", attempts=attempts[::-1], ran_with=ran_with),
        part("log", "trial_log.html", log=log, last=last),
        part("config", "trial_config.html", live=False, config=config, trial=result),
    ]
    rounds = Rounds(key, result["numerics_id"] or "", result["final_round"] or 0)
    return Screen("trials", f"Trial {trial_id[:10]}", parts, rounds=rounds, draws=True)


def curves_table(
    cache: ReadCache, name: str, group: str, found: Sequence[tuple[int, str]]
) -> CsvTable:
    """Return the measures of a group by trial and round, named as in the view `curves`.

    `found` are the rows and the ids of the trials.
    """
    measures = [measure for measure in SHOWN_BY_ROUND if measure.group == group]
    places = [0, *(1 + SHOWN_BY_ROUND.index(measure) for measure in measures), -2, -1]

    def rows() -> Iterator[tuple[Any, ...]]:
        for key, trial_id in found:
            for row in cache.read(browse.rounds_after, key, 0):
                yield (trial_id, *(row[place] for place in places))

    columns = ("trial_id", "round", *(measure.name for measure in measures), "phase", "inherited")
    return CsvTable(name, columns, rows())


def _table(group: str) -> Callable[[ReadCache, Mapping[str, str]], CsvTable]:
    def table(cache: ReadCache, query: Mapping[str, str]) -> CsvTable:
        found = cache.read(trial_rows.find_trial, query.get("trial", ""))
        return curves_table(cache, f"trial-{found[1][:10]}-{group}-by-round", group, [found])

    return table


TABLES = {group: _table(group) for group in FIGURES}
"""The data of the figures of a trial."""
