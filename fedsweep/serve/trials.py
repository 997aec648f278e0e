"""Trials by filter, and one trial with its rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from fedsweep.errors import RequestError
from fedsweep.fields import label
from fedsweep.measures import COMPARABLE, MEASURES, OPTIONAL, SHOWN_BY_ROUND
from fedsweep.serve.look import SELDOM, Look
from fedsweep.serve.screen import Rounds, Screen, part
from fedsweep.states import FailureKind, TrialState
from fedsweep.store import browse, sweep_rows, trial_rows
from fedsweep.store.browse import TrialFilter
from fedsweep.words import ran_with, standing

LINES = 40
"""Of the last attempt's log."""

HEADINGS = {
    "state": "state",
    "normalizer": "normalizer",
    **{name: label(name) for name in ("alpha", "local_steps", "freeze_round", "momentum", "seed")},
    "final_round": "round",
    **{name: f"{MEASURES[name].samples}, %" for name in ("test_accuracy", "validation_accuracy")},
    "seconds": "seconds",
    "priority": "priority",
}
"""The columns of the list that it can be sorted by."""

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
ASKED = (*FILTERS, "sort", "down", "page")
"""What an address may say of the list."""


def trials(look: Look, asked: Mapping[str, str]) -> Screen:
    """The list of trials, filtered, sorted, a page of it."""
    asked = {name: asked[name].strip() for name in ASKED if asked.get(name, "").strip()}
    choices = look.once("choices", lambda: _choices(look), SELDOM)
    wrong = ""
    try:
        wanted = read_wanted(asked)
    except RequestError as error:
        wanted, wrong = TrialFilter(prefix="nothing"), str(error)
    count, rows = look.read(browse.trials_page, wanted)
    table = part(
        "list",
        "trial_list.html",
        count=count,
        rows=rows,
        wanted=wanted,
        wrong=wrong,
        pages=max(1, math.ceil(count / browse.PAGE)),
        first=browse.PAGE * (wanted.page - 1) + 1,
        headings=HEADINGS,
        link=_linker(asked),
    )
    form = part("filter", "trial_filter.html", live=False, asked=asked, choices=choices)
    return Screen("trials", "Trials", [form, table], status=400 if wrong else 200)


def _choices(look: Look) -> dict[str, list[Any]]:
    found = look.read(browse.choices)
    return {
        "sweep": look.read(sweep_rows.sweep_names),
        "state": list(TrialState),
        "failure": list(FailureKind),
        **{name: [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
           for name, values in found.items()},
    }  # fmt: skip


def read_wanted(asked: Mapping[str, str]) -> TrialFilter:
    """The filter that an address asks for.

    Raises:
        RequestError: a value that cannot be one.

    """
    exact = [(name, _value(name, asked[name])) for name in browse.EXACT if name in asked]
    sort = asked.get("sort", "planned")
    if sort not in browse.SORTS:
        raise RequestError(
            f"trials cannot be sorted by {sort!r}: sort by {', '.join(browse.SORTS)}"
        )
    return TrialFilter(
        sweep=asked.get("sweep"),
        prefix=asked["id"].lower() if "id" in asked else None,
        exact=tuple(exact),
        sort=sort,
        down=asked.get("down") == "1",
        page=min(max(1, _value("page", asked.get("page", "1"))), 10**6),
    )


_NUMBERS: dict[str, Callable[[str], Any]] = {
    "alpha": float, "local_steps": int, "seed": int, "page": int
}  # fmt: skip


def _value(name: str, text: str) -> Any:
    try:
        value = _NUMBERS.get(name, str)(text)
    except ValueError as error:
        raise RequestError(f"{name} = {text!r} is no number: correct it, or clear it") from error
    if isinstance(value, int) and abs(value) >= 2**63:
        raise RequestError(f"{name} = {text} is too large: correct it, or clear it")
    return value


def _linker(asked: Mapping[str, str]) -> Callable[..., str]:
    """Addresses of the same list, but for what is changed."""

    def link(**changes: Any) -> str:
        query = {
            name: value for name, value in {**asked, **changes}.items() if value not in ("", None)
        }
        return f"trials?{urlencode(query)}" if query else "trials"

    return link


def trial(look: Look, asked: Mapping[str, str]) -> Screen:
    """One trial: configuration, standing, curves, attempts, log.

    Raises:
        NotFound, RequestError: no trial's id begins so, or several do.

    """
    key, trial_id = look.read(trial_rows.find_trial, asked.get("trial", ""))
    result = look.read(trial_rows.trial_result, trial_id)
    stands = look.read(trial_rows.trial_standing, key)
    attempts = look.read(trial_rows.trial_attempts, key)
    last = attempts[-1]["fence"] if attempts else 0
    log = look.read(trial_rows.trial_logs, key, last, LINES)
    numbers = look.read(browse.rounds_after, key, 0)
    config = json.loads(result["config"])
    parts = [
        part(
            "facts",
            "trial_facts.html",
            trial=result,
            finals=[MEASURES[name] for name in COMPARABLE if name not in OPTIONAL],
            lines=list(standing(trial_id, result, stands)),
        ),
        part("curves", "trial_curves.html", live=False, rounds=numbers, measures=SHOWN_BY_ROUND),
        part("attempts", "trial_attempts.html", attempts=attempts[::-1], ran_with=ran_with),
        part("log", "trial_log.html", log=log, last=last),
        part("config", "trial_config.html", live=False, config=config, trial=result),
    ]
    rounds = Rounds(key, result["numerics_id"] or "", result["final_round"] or 0)
    return Screen("trials", f"Trial {trial_id[:10]}", parts, rounds=rounds, draws=True)
