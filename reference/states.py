"""The page on the states of a trial and the kinds of failure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from fedsweep import states
from fedsweep.states import RETRIED, RULES, TRANSITIONS, FailureKind, Hold, Outcome, TrialState
from reference import docstrings
from reference.markdown import code, document, fence, prose, table

SOURCE = "fedsweep/states.py"


def page() -> str:
    """Return the page."""
    _title, drawing, note = (states.__doc__ or "").split("\n\n")
    return document(
        "States and failures",
        "A trial has one state. Each attempt at it has an outcome. A hold keeps trials from being "
        "claimed.",
        "## States of a trial",
        fence(drawing),
        prose(note),
        *_states(),
        table(["state", "next state"], _transitions()),
        "## Kinds of failure",
        "A failure is of an attempt. It fails the trial unless the attempt is retried.",
        *_failures(),
        "## Outcomes of an attempt",
        _meanings(Outcome),
        "## Holds",
        prose(Hold.__doc__ or ""),
        _meanings(Hold),
        sources=(SOURCE,),
    )


def _states() -> Iterator[str]:
    told = docstrings.of_attributes(SOURCE, "TrialState")
    for state in TrialState:
        yield f"### {code(state.value)}"
        yield prose(told[state.name])


def _transitions() -> Iterator[list[str]]:
    for state, then in TRANSITIONS.items():
        following = [code(other.value) for other in TrialState if other in then]
        yield [code(state.value), ", ".join(following) or "– (it is final)"]


def _failures() -> Iterator[str]:
    told = docstrings.of_attributes(SOURCE, "FailureKind")
    for kind in FailureKind:
        yield f"### {code(kind.value)}"
        yield prose(told[kind.name])
        retried = "yes" if kind in RETRIED else "no"
        yield f"- Retried: {retried}\n- Consequence: {prose(RULES[kind])}"


def _meanings(kind: type[StrEnum]) -> str:
    told = docstrings.of_attributes(SOURCE, kind.__name__)
    rows = ([code(member.value), prose(told[member.name])] for member in kind)
    return table([kind.__name__.lower(), "meaning"], rows)
