"""The screen "Compare": the curves and the configurations of two trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from fedsweep.errors import NotFound, RequestError
from fedsweep.measures import COMPARABLE, MEASURES, OPTIONAL, SHOWN_BY_ROUND
from fedsweep.serve.csv_table import CsvTable
from fedsweep.serve.presentation import line_styles
from fedsweep.serve.read_cache import ReadCache
from fedsweep.serve.screen import SEPARATOR, Screen, csv_address, listed, part
from fedsweep.serve.trials import FIGURES, curves_table
from fedsweep.store import browse, trial_rows
from fedsweep.store.rows import Row

PARAMETERS = ("trial", "smooth")
"""The query parameters of the screen. `trial` occurs twice."""
REPEATED = ("trial",)

LETTERS = ("A", "B")
"""The names of the two trials on the screen."""
DASHES = {"test": "solid", "validation": "dash", "train": "dot"}
"""The kind of line by the samples that a measure is taken on."""
AXES = {"accuracy": "accuracy, %", "loss": "loss, nats"}


@dataclass(frozen=True)
class Compared:
    """One of the two trials."""

    key: int
    trial_id: str
    result: Row
    rounds: Sequence[tuple[Any, ...]]
    """Its rounds, as `browse.rounds_after` returns them."""

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration by field."""
        config: dict[str, Any] = json.loads(self.result["config"])
        return config


@dataclass(frozen=True)
class Setting:
    """A field of the configuration with the values of both trials."""

    name: str
    values: tuple[Any, Any]
    differs: bool


def compare(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen of two trials. If they cannot be compared, it says why in one sentence."""
    texts = listed(query, "trial") or []
    trials: list[tuple[int, str]] = []
    error, status = "", 200
    if len(texts) > 1:  # otherwise the form is not filled in yet
        try:
            trials = find_pair(cache, texts)
        except RequestError as refusal:
            error, status = str(refusal), 404 if isinstance(refusal, NotFound) else 400
    ids = [trial_id for _, trial_id in trials] or texts[:2]
    form = part("pair", "compare_form.html", live=False, ids=[*ids, "", ""][:2], error=error,
                one=len(texts) == 1)  # fmt: skip
    if not trials:
        return Screen("trials", "Compare two trials", [form], status=status)
    pair = [_compared(cache, key, trial_id) for key, trial_id in trials]
    both = {"trial": SEPARATOR.join(ids)}
    links = {name: csv_address("compare", name, both) for name in FIGURES}
    parts = [
        form,
        part("results", "compare_results.html", pair=pair, letters=LETTERS,
             finals=[MEASURES[name] for name in COMPARABLE if name not in OPTIONAL],
             equal=equal_rounds(pair)),
        part("curves", "compare_curves.html", live=False, query=query, links=links, ids=ids),
        part("settings", "compare_config.html", live=False, letters=LETTERS,
             settings=settings(pair)),
    ]  # fmt: skip
    figures = {name: figure(name, pair) for name in FIGURES}
    return Screen("trials", "Compare two trials", parts, figures=figures, draws=True)


def find_pair(cache: ReadCache, ids: Sequence[str]) -> list[tuple[int, str]]:
    """Return the rows and the full ids of two trials.

    Raises:
        NotFound: there is no such trial.
        RequestError: there are not two different ids, or several ids begin with one of them.

    """
    if len(ids) != 2:
        raise RequestError(f"{len(ids)} trials are chosen: choose two")
    pair = [cache.read(trial_rows.find_trial, text) for text in ids]
    if pair[0] == pair[1]:
        raise RequestError(f"both are trial {pair[0][1][:10]}: choose two different ones")
    return pair


def _compared(cache: ReadCache, key: int, trial_id: str) -> Compared:
    result = cache.read(trial_rows.trial_result, trial_id)
    return Compared(key, trial_id, result, cache.read(browse.rounds_after, key, 0))


def settings(pair: Sequence[Compared]) -> list[Setting]:
    """Return the fields of both configurations. Those that differ come first."""
    a, b = (trial.config for trial in pair)
    both = [
        Setting(name, (a.get(name), b.get(name)), a.get(name) != b.get(name))
        for name in dict.fromkeys([*a, *b])
    ]
    return sorted(both, key=lambda setting: not setting.differs)


def equal_rounds(pair: Sequence[Compared]) -> int:
    """Return for how many rounds, from the first one on, all shown measures are equal.

    The seconds of a round are not compared.
    """
    places = [0, *(i for i, measure in enumerate(SHOWN_BY_ROUND, start=1) if measure.compared)]
    pairs = zip(*(trial.rounds for trial in pair), strict=False)
    equal = takewhile(lambda rows: all(rows[0][i] == rows[1][i] for i in places), pairs)
    return sum(1 for _ in equal)


def figure(group: str, pair: Sequence[Compared]) -> dict[str, Any]:
    """Return the lines of both trials for the measures of a group."""
    traces: list[dict[str, Any]] = []
    for letter, trial, color in zip(LETTERS, pair, _colors(pair), strict=True):
        for place, measure in enumerate(SHOWN_BY_ROUND, start=1):
            points = [row for row in trial.rounds if row[place] is not None]
            if measure.group == group and points:
                line = {
                    "name": f"{letter}: {measure.label}",
                    "kind": "curve",
                    "color": color,
                    "dash": DASHES.get(measure.samples, "dashdot"),
                    "x": [row[0] for row in points],
                    "y": [measure.scale * row[place] for row in points],
                    "std": [],
                }
                traces.append(line)
    return {"traces": traces, "x": "round", "y": AXES[group]}


def _colors(pair: Sequence[Compared]) -> list[dict[str, str] | None]:
    """Return the colors of both trials. If both are equal, the second is None: that of text."""
    first, second = line_styles([trial.result["normalizer"] for trial in pair])
    same = first["color"] == second["color"]
    return [first["color"], None if same else second["color"]]


def _table(group: str) -> Callable[[ReadCache, Mapping[str, str]], CsvTable]:
    def table(cache: ReadCache, query: Mapping[str, str]) -> CsvTable:
        pair = find_pair(cache, listed(query, "trial") or [])
        ids = "-".join(trial_id[:10] for _, trial_id in pair)
        return curves_table(cache, f"trials-{ids}-{group}-by-round", group, pair)

    return table


TABLES = {group: _table(group) for group in FIGURES}
"""The data of the figures of two trials."""
