"""The report as one self-contained HTML file without scripts or files to load."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment

import fedsweep
from fedsweep.reports import search_tables, tables
from fedsweep.reports.figures import CaptionedFigure, slug
from fedsweep.reports.grouping import Summary
from fedsweep.reports.search_results import SearchResult
from fedsweep.reports.tables import ReportOptions

MOST_DATA = 300_000
"""The most characters of a figure's data that a page contains. More would make it slow to load."""


@dataclass(frozen=True)
class Section:
    """The part of the page about one sweep."""

    summary: Summary
    options: ReportOptions
    figures: Sequence[CaptionedFigure]
    plan: str
    search_results: Sequence[SearchResult] = ()


def render(sections: Sequence[Section], when: str) -> str:
    """Return the page. Everything is escaped, except for the figures."""
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    return page.render(
        sections=sections,
        tables=tables,
        search_tables=search_tables,
        when=when,
        version=fedsweep.__version__,
        data_link=_data_link,
        slug=slug,
    )


def _data_link(figure: CaptionedFigure) -> str | None:
    """Return a link that contains the figure's data as CSV, or None if there is too much of it."""
    text = figure.data.csv(MOST_DATA)
    if text is None:
        return None
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


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
caption span { position: sticky; left: 0; display: inline-block; max-width: min(100%, calc(100vw - 2rem)); }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); } tbody tr:hover { background: var(--soft); }
figure { margin: 0; padding: 1rem; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figure svg { max-width: 100%; height: auto; display: block; margin: auto; }
figcaption { color: #444; font-size: .9rem; padding-top: .5rem; }
.best { font-weight: 700; } .level { text-decoration: underline; text-underline-offset: .2em; }
.note { margin: .3rem 0; } .note a { color: inherit; } details { margin: .4rem 0; font-size: .85rem; } code { overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
</style>
</head>
<body>
{% macro heading(text) %}{{ text[0] | upper }}{{ text[1:] }}{% endmacro %}
{% macro notes(texts) %}
{% for note in texts %}
{% if note.startswith("query: ") %}
<details class="dim"><summary>query</summary><code>{{ note[7:] }}</code></details>
{% else %}
<p class="dim note">{{ note }}</p>
{% endif %}
{% endfor %}
{% endmacro %}
{% macro plain(caption, headings, lines) %}
<div class="scroll"><table>
<caption><span>{{ caption }}</span></caption>
<thead><tr>{% for name in headings %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in lines %}
<tr>{% for text in line %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro table(s, measure, options) %}
<div class="scroll"><table>
<caption><span>{{ heading(tables.title(measure, options)) }}</span></caption>
<thead><tr>{% for name in tables.headings(s) %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for key, entries in tables.rows(s, measure, options) %}
<tr>{% for text in tables.key_texts(s, key) %}<td>{{ text }}</td>{% endfor %}
{% for entry in entries %}<td{% if entry.mark %} class="{{ entry.mark }}"{% endif %}>{{ entry.text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% for section in sections %}
{% set s = section.summary %}
{% set options = section.options %}
<h1>{{ s.sweep }}</h1>
<p class="dim">{{ s.states.get("finished", 0) }} of {{ s.states.values() | sum }} trials finished
· {{ when }} · fedsweep {{ version }}</p>
{% for measure in options.measures(s) %}
<h2>{{ heading(tables.measure_label(measure)) }}</h2>
{{ table(s, measure, options) }}
{{ notes(tables.footnotes(s, options) if loop.first else [tables.query_note(s, measure, options)]) }}
{% endfor %}
{% for what, differences in tables.difference_tables(s, options) %}
{% set headings, lines = tables.difference_rows(s, options.first, differences) %}
<h2>{{ heading(tables.measure_label(options.first)) }} {{ what }}</h2>
{{ plain(heading(tables.difference_title(options.first, what)), headings, lines) }}
{{ notes([tables.difference_note(s, options)]) }}
{% endfor %}
{% if section.search_results %}
{% set headings, lines = search_tables.rows(section.search_results) %}
<h2>Results of the searches</h2>
{{ plain("The best freeze round of each arm", headings, lines) }}
{{ notes(search_tables.notes(section.search_results)) }}
{% endif %}
{% for figure in section.figures %}
<h2>{{ figure.heading }}</h2>
<figure role="img" aria-label="{{ figure.heading }}">{{ figure.svg() | safe }}
<figcaption>{{ figure.caption }}</figcaption></figure>
{% set link = data_link(figure) %}
<p class="dim note">{% if link %}<a download="{{ slug(s.sweep) }}-{{ figure.name }}.csv" href="{{ link }}">data as CSV</a>
{% else %}Its data are too large for this page: <code>fedsweep report --figures FOLDER</code> writes them as CSV.{% endif %}</p>
<details class="dim"><summary>query</summary><code>{{ figure.query }}</code></details>
{% endfor %}
<h2>Plan</h2>
<pre>{{ section.plan }}</pre>
{% endfor %}
</body>
</html>
"""
