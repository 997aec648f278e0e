"""Screens, and the templates and filters that turn a screen into HTML."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import fedsweep
from fedsweep.errors import hide_secrets
from fedsweep.fields import label
from fedsweep.measures import Measure
from fedsweep.reports.labels import describe, field_text
from fedsweep.words import counted, duration, size


@dataclass(frozen=True)
class Part:
    """A piece of a page. A `live` part is sent again when it has changed."""

    id: str
    html: Markup
    live: bool = True


@dataclass(frozen=True)
class Rounds:
    """The trial whose curves a page extends as rounds are stored."""

    trial: int
    numerics: str
    """The numerics id of its rounds. If it changes, all rounds are sent again."""
    last: int
    """The number of the last stored round."""


@dataclass(frozen=True)
class Screen:
    """The content of one page: a heading and parts."""

    name: str
    """The entry of the navigation that is marked as current."""
    heading: str
    parts: Sequence[Part]
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The lines and axes of each figure that the browser draws, by the id of its element."""
    rounds: Rounds | None = None
    """The trial whose curves are drawn. None if the screen shows no trial."""
    draws: bool = False
    """True if the page loads plotly."""
    status: int = 200
    """The HTTP status."""


@dataclass(frozen=True)
class PageAddress:
    """The address of a page, as the browser sees it."""

    root: str
    """The path that all links are relative to."""
    path: str
    """The page's own path and query, relative to the root."""


@dataclass(frozen=True)
class StreamAddress:
    """The address of a page's event stream."""

    fixed: str
    """The part that stays if the user chooses something on the page. Empty without a stream."""
    choice: str = ""
    """The query parameters that the user chooses."""


NAVIGATION = {
    "overview": ("./", "Overview"),
    "queue": ("queue", "Queue"),
    "failures": ("failures", "Failures"),
    "trials": ("trials", "Trials"),
    "sql": ("sql", "SQL"),
}
"""The path and the label of each link of the navigation."""


@cache
def environment() -> Environment:
    """Return the environment of the templates, which escapes all values."""
    result = Environment(
        loader=PackageLoader("fedsweep.serve"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    result.filters |= {
        "duration": duration,
        "clock": clock,
        "percent": percent,
        "number": number,
        "measure_text": measure_text,
        "measures_json": measures_json,
        "size": size,
        "safe_text": hide_secrets,
        "describe": describe,
    }
    result.globals |= {
        "counted": counted,
        "label": label,
        "field_text": field_text,
        "navigation": NAVIGATION,
        "version": fedsweep.__version__,
    }
    return result


def part(id: str, template: str, *, live: bool = True, **values: Any) -> Part:
    """Return a piece of a page, rendered from its template."""
    return Part(id, Markup(environment().get_template(template).render(values)), live)  # noqa: S704  # the template has escaped all


def page(
    screen: Screen, title: str, status: str, stream: StreamAddress, address: PageAddress
) -> str:
    """Return the HTML of a whole page."""
    values = {"screen": screen, "title": title, "status": status, "stream": stream}
    values |= {"root": address.root, "path": address.path}
    return environment().get_template("page.html").render(values)


SEPARATOR = "\n"
"""Separates the values of a repeated query parameter. No value contains it."""


def listed(query: Mapping[str, str], name: str) -> list[str] | None:
    """Return the values of a repeated query parameter; None if the address does not have it."""
    return [v for v in query[name].split(SEPARATOR) if v] if name in query else None


def pairs(query: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the parameters of a query as an address has them."""
    return [(name, value) for name, text in query.items() for value in text.split(SEPARATOR)]


def csv_address(screen: str, figure: str, query: Mapping[str, str]) -> str:
    """Return the address of the data of a screen's figure."""
    return f"csv/{screen}/{figure}?{urlencode(pairs(query))}"


def title(screen: Screen, states: Mapping[str, int]) -> str:
    """Return the title of a page, such as "3 running · Queue · fedsweep"."""
    heading = [] if screen.name == "overview" else [screen.heading]
    return " · ".join([f"{states['running']} running", *heading, "fedsweep"])


def status_line(states: Mapping[str, int]) -> str:
    """Return the sentence that a screen reader announces when it changes."""
    texts = [f"{n:,} {state}" for state, n in states.items() if n and state != "queued"]
    return ", ".join(texts) or "nothing runs yet"


def clock(at: float | None) -> str:
    """Return a wall time as text, in the time zone of this machine."""
    return "–" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction in percent: "93.61" for 0.9361."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def measure_text(value: float | None, measure: Measure) -> str:
    """Return a value of a measure as text. A fraction is shown in percent."""
    return percent(value) if measure.unit == "fraction" else number(value)


def measures_json(measures: Sequence[Measure]) -> str:
    """Return JSON that describes the measures which the browser draws, in column order."""
    names = ("group", "samples", "label", "scale")
    return strict_json([{name: getattr(measure, name) for name in names} for measure in measures])


def strict_json(value: Any) -> str:
    """Return JSON that a browser can parse: NaN and infinity become null."""
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
