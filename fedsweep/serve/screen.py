"""What one looks at: a heading and parts, each a piece of HTML; templates and their filters."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import fedsweep
from fedsweep.errors import hide_secrets
from fedsweep.fields import label
from fedsweep.measures import Measure
from fedsweep.report.labels import describe, field_text
from fedsweep.words import counted, duration, size


@dataclass(frozen=True)
class Part:
    """A piece of a page; a `live` one is sent again when it has changed."""

    id: str
    html: Markup
    live: bool = True


@dataclass(frozen=True)
class Rounds:
    """The trial whose rounds a page draws as they come."""

    trial: int
    numerics: str
    """What they were computed under: other numerics, other rounds."""
    last: int


@dataclass(frozen=True)
class Screen:
    """One page."""

    name: str
    """Of the place in the navigation that it belongs to."""
    heading: str
    parts: Sequence[Part]
    figure: Mapping[str, Any] | None = None
    """Traces for the browser to draw; None where there is nothing to draw."""
    rounds: Rounds | None = None
    draws: bool = False
    """Whether the page needs plotly."""
    status: int = 200


@dataclass(frozen=True)
class Place:
    """The address of a page, as a browser has it."""

    root: str
    """The path that all links are relative to."""
    here: str
    """The page's own path and query."""


NAVIGATION = {
    "overview": ("./", "Overview"),
    "queue": ("queue", "Queue"),
    "failures": ("failures", "Failures"),
    "trials": ("trials", "Trials"),
    "sql": ("sql", "SQL"),
}


@cache
def environment() -> Environment:
    """The templates. All that is not ours is escaped."""
    made = Environment(
        loader=PackageLoader("fedsweep.serve"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "duration": duration,
        "clock": clock,
        "percent": percent,
        "number": number,
        "shown": shown,
        "drawn": drawn,
        "size": size,
        "safe_text": hide_secrets,
        "what": describe,
    }
    made.globals |= {
        "counted": counted,
        "label": label,
        "field_text": field_text,
        "navigation": NAVIGATION,
        "version": fedsweep.__version__,
    }
    return made


def part(id: str, template: str, *, live: bool = True, **values: Any) -> Part:
    """A piece of a page from its template."""
    return Part(id, Markup(environment().get_template(template).render(values)), live)  # noqa: S704  # the template has escaped all


def page(screen: Screen, title: str, said: str, events: str, place: Place) -> str:
    """The whole page; `events` is the address of its stream."""
    values = {"screen": screen, "title": title, "said": said, "events": events}
    values |= {"root": place.root, "here": place.here}
    return environment().get_template("page.html").render(values)


def title(screen: Screen, states: Mapping[str, int]) -> str:
    """3 running · Queue · fedsweep."""
    where = [] if screen.name == "overview" else [screen.heading]
    return " · ".join([f"{states['running']} running", *where, "fedsweep"])


def said(states: Mapping[str, int]) -> str:
    """What a screen reader is told when it changes."""
    some = [f"{n:,} {state}" for state, n in states.items() if n and state != "queued"]
    return ", ".join(some) or "nothing runs yet"


def clock(at: float | None) -> str:
    """A wall time, in this machine's zone."""
    return "–" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def percent(share: float | None, digits: int = 2) -> str:
    """93.61 of 0.9361."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def number(value: float | None, digits: int = 4) -> str:
    """A measure in few digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def shown(value: float | None, measure: Measure) -> str:
    """A measure in its own unit: a fraction in percent."""
    return percent(value) if measure.unit == "fraction" else number(value)


def drawn(measures: Sequence[Measure]) -> str:
    """JSON from which the browser draws a trial's measures, in the order of the columns."""
    names = ("group", "samples", "label", "scale")
    return finite([{name: getattr(measure, name) for name in names} for measure in measures])


def finite(value: Any) -> str:
    """JSON that a browser reads: what is no number is null."""
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
