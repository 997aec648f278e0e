"""The report as one self-contained HTML file: no script, no link, nothing to load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from jinja2 import Environment

import fedsweep
from fedsweep.report import plots, tables
from fedsweep.report.findings import Finding, names
from fedsweep.report.summary import Row, Summary, by_measure, summarize


@dataclass(frozen=True)
class Section:
    """One sweep on the page."""

    summary: Summary
    by_round: str | None
    by_freeze_round: str | None
    plan: str
    more: Sequence[tuple[str, str]] = ()
    """Further pictures by round: a heading and an SVG each."""
    findings: Sequence[Finding] = ()
    """What searches found."""
    searched: str | None = None


SHARES = {"test_miou": "test mIoU", "worst_client_accuracy": "worst client's test accuracy"}
NUMBERS = {"gradient_deviation": "gradient deviation", "client_drift": "client drift"}
"""What is drawn by round where some trial measured it, beside its accuracy, and its name."""


def section(
    name: str,
    rows: Sequence[Row],
    curves: Sequence[Row],
    plan: str,
    findings: Sequence[Finding] = (),
) -> Section:
    """A sweep's part of the page, from its rows of `results` and of `curves`, and its searches."""
    summary, taken = summarize(name, rows), by_measure(curves)
    by_arm = partial(plots.arms_by_round, summary)
    # Nothing goes on between one: of centralised trials only the accuracy is drawn.
    federated = [row for row in rows if not row["centralized"]]
    mismatch, what = taken.get("statistics_mismatch", {}), "statistics mismatch"
    more = {
        what: by_arm(federated, taken.get(name, {}), f"{what}, %") for name, what in SHARES.items()
    }
    more[what] = plots.alphas_by_round(summary, federated, mismatch, what)
    more |= {
        what: by_arm(federated, taken.get(name, {}), what, 1.0) for name, what in NUMBERS.items()
    }
    return Section(
        summary,
        by_arm(rows, taken.get("test_accuracy", {})),
        plots.accuracy_by_freeze_round(summary),
        plan,
        [(f"{what[0].upper()}{what[1:]} by round", svg) for what, svg in more.items() if svg],
        findings,
        plots.searches(findings, names(findings)) if findings else None,
    )


def render(sections: Sequence[Section], when: str) -> str:
    """The whole page. Everything but our own pictures is escaped."""
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    return page.render(
        sections=sections,
        tables=tables,
        when=when,
        version=fedsweep.__version__,
    )


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedsweep: {{ sections | map(attribute="summary.sweep") | join(", ") }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --dim: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.dim { color: var(--dim); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; color: var(--dim); }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); } tbody tr:hover { background: var(--soft); }
figure { margin: 0; padding: 1rem; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figure svg { max-width: 100%; height: auto; display: block; margin: auto; }
figcaption { color: #444; font-size: .9rem; padding-top: .5rem; }
pre { background: var(--soft); padding: 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
</style>
</head>
<body>
{% macro table(s, measure) %}
<div class="scroll"><table>
{% set title = tables.title(measure) %}
<caption>{{ title[0] | upper }}{{ title[1:] }}</caption>
<thead><tr>{% for name in tables.headings(s) %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for key, texts in tables.rows(s, measure) %}
<tr>{% for text in tables.key_texts(s, key) + texts %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% for section in sections %}
{% set s = section.summary %}
<h1>{{ s.sweep }}</h1>
<p class="dim">{{ s.states.get("finished", 0) }} of {{ s.states.values() | sum }} trials finished
· {{ when }} · fedsweep {{ version }}</p>
<h2>Accuracy</h2>
{{ table(s, "test_accuracy") }}
{% for note in tables.footnotes(s) %}<p class="dim" style="margin:.3rem 0">{{ note }}</p>{% endfor %}
{% for measure in s.taken() %}
{% set name = tables.NAMES[measure] %}
<h2>{{ name[0] | upper }}{{ name[1:] }}</h2>
{{ table(s, measure) }}
{% endfor %}
{% if section.findings %}
{% set headings, lines = tables.search_rows(section.findings) %}
<h2>The best freeze round</h2>
<div class="scroll"><table>
<caption>What the searches found</caption>
<thead><tr>{% for name in headings %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in lines %}
<tr>{% for text in line %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% for note in tables.search_notes(section.findings) %}<p class="dim" style="margin:.3rem 0">{{ note }}</p>{% endfor %}
{% if section.searched %}
<figure>{{ section.searched | safe }}
<figcaption>Dots are what was tried; the line is what a Gaussian process believes of the T⋆ between.</figcaption></figure>
{% endif %}
{% endif %}
{% if section.by_round %}
<h2>Accuracy by round</h2>
<figure>{{ section.by_round | safe }}
<figcaption>Mean over seeds; the band is one sample standard deviation. FIXBN is BN up to its freeze and forks off at the dot, the last round tested before it.</figcaption></figure>
{% endif %}
{% if section.by_freeze_round %}
<h2>Accuracy by freeze round</h2>
<figure>{{ section.by_freeze_round | safe }}
<figcaption>FIXBN's final accuracy over T⋆, ± one sample standard deviation; the other normalisers as dashed lines.</figcaption></figure>
{% endif %}
{% for heading, picture in section.more %}
<h2>{{ heading }}</h2>
<figure>{{ picture | safe }}
<figcaption>Mean over seeds; the band is one sample standard deviation.</figcaption></figure>
{% endfor %}
<h2>Plan</h2>
<pre>{{ section.plan }}</pre>
{% endfor %}
</body>
</html>
"""
