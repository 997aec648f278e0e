"""The page on measures."""

from __future__ import annotations

from fedsweep.measures import BY_GROUP, CATALOG, IN_CURVES, Measure
from reference import docstrings
from reference.markdown import code, document, fence, prose, table

FINAL = {"last": "of the last round", "best": "of the best round", "total": "sum over rounds"}
"""The number of a finished trial, in words."""

DIAGNOSTICS = "trainers/diagnostics.py"


def page() -> str:
    """Return the page."""
    formulas = docstrings.of_functions(DIAGNOSTICS)
    return document(
        "Measures",
        "A measure is a number that is stored for each round or for each finished trial. The "
        "[views](views.md) have a column of the same name. A fraction is stored as 0 to 1, and is "
        "shown in percent. The reports of `fedsweep report --metric` use the same names.",
        table(
            ["measure", "label", "meaning", "unit", "`curves`", "`results`", "better", "taken"],
            map(_row, CATALOG),
        ),
        "`best_test_accuracy` is an oracle: it chooses the round by the test set.",
        "## Diagnostics",
        "These measures need [`diagnostics = true`](plan-file.md#diagnostics).",
        fence(docstrings.of_module(DIAGNOSTICS)),
        *(
            block
            for name in BY_GROUP["clients"]
            for block in (f"### {code(name)}", fence(formulas[name]))
        ),
        sources=("fedsweep/measures.py", "trainers/measurements.py", DIAGNOSTICS),
    )


def _row(measure: Measure) -> list[str]:
    told = docstrings.of_attributes("trainers/measurements.py", "Round").get(measure.name, "")
    return [
        code(measure.name),
        prose(measure.label),
        prose(told) or "–",
        measure.unit,
        "yes" if measure in IN_CURVES else "no",
        FINAL.get(measure.final, "–"),
        "lower" if measure.lower_is_better else _better(measure),
        _taken(measure),
    ]


def _better(measure: Measure) -> str:
    return "higher" if measure.unit == "fraction" else "–"


def _taken(measure: Measure) -> str:
    if measure.group == "clients":
        return "with `diagnostics`"
    if not measure.optional:
        return "with `validation`" if measure.samples == "validation" else "always"
    return "for road scenes" if "miou" in measure.name else "with `client_accuracy`"
