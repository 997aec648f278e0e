"""All figures of a sweep, each with a caption, its data, and the query that gives its numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context

from fedsweep.errors import RequestError
from fedsweep.files import make_folder, write_whole
from fedsweep.measures import CURVES, MEASURES
from fedsweep.reports import plots, queries, search_plot, wins_plot
from fedsweep.reports.grouping import Summary
from fedsweep.reports.labels import Row
from fedsweep.reports.search_results import SearchResult, arm_names
from fedsweep.reports.selection import Condition
from fedsweep.store.rows import Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedsweep.reports.figure_data import FigureData
    from fedsweep.reports.panels import Plot

FORMATS = ("pdf", "svg", "png")
"""The formats of a figure. A fourth file has its data, as CSV."""

DPI = 300
"""Dots per inch of a PNG: the least that publishers ask for."""

ON_SCREEN = 1.4
"""The size of a figure on a page. Its text is for paper, so it would be small on a screen."""

METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None, "Creator": None},
    "png": {},
}
"""Metadata that is left out, so that equal figures give equal files."""

_BAND = "Mean over seeds. The band is one sample standard deviation."
_FORK = "A marker with a black edge is at T⋆."
_BARS = "Final test accuracy, mean over seeds ± one sample standard deviation."


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its texts. `name` is a part of its file names."""

    name: str
    heading: str
    caption: str
    query: str
    figure: Figure
    data: FigureData

    def svg(self) -> str:
        """Return the figure as an SVG element of a page."""
        text = self.written("svg").decode()
        head, rest = text[text.index("<svg") :].split(">", 1)

        def larger(match: re.Match[str]) -> str:
            return f'{match[1]}="{ON_SCREEN * float(match[2]):.2f}pt"'

        return re.sub(r'\b(width|height)="([\d.]+)pt"', larger, head) + ">" + rest

    def written(self, kind: str) -> bytes:
        """Return the content of a file in one of FORMATS.

        Equal figures give equal files. Text in a PDF or SVG is text, with TrueType fonts in a PDF.
        """
        out = io.BytesIO()
        metadata = METADATA[kind] | {"Title": self.heading}
        if kind != "svg":
            metadata |= {"Subject" if kind == "pdf" else "Description": self.caption}
        with rc_context({"svg.hashsalt": "fedsweep", "svg.fonttype": "none", "pdf.fonttype": 42}):
            self.figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
        return out.getvalue()


def captioned_figures(
    summary: Summary,
    rows: Sequence[Row],
    curves: Mapping[str, Curves],
    results: Sequence[SearchResult] = (),
    conditions: Sequence[Condition] = (),
    width: float | None = None,
) -> list[CaptionedFigure]:
    """Return the figures for which the sweep has data, in the order of the page.

    `width` is that of each figure in inches. By default, a figure with one panel is as wide as a
    column of a paper, and one with more panels is as wide as its page.
    """
    return [
        *_final(summary, conditions, results, width),
        *_by_round(summary, rows, curves, conditions, width),
    ]


def _captioned(
    plot: Plot | None, name: str, heading: str, caption: str, query: str
) -> Iterator[CaptionedFigure]:
    """Yield a figure with its texts, if there is a figure."""
    if plot is not None:
        whole = f"{caption} {plot.note}".strip()
        yield CaptionedFigure(name, heading, whole, query, plot.figure, plot.data)


def _final(
    summary: Summary,
    conditions: Sequence[Condition],
    results: Sequence[SearchResult],
    width: float | None,
) -> Iterator[CaptionedFigure]:
    query = queries.table_query(summary, "test_accuracy", conditions)
    caption = (
        "The best mean of each setting, and its lead over the next, in points. An arm with a "
        "missing trial takes no part."
    )
    best = wins_plot.wins(summary, width)
    yield from _captioned(best, "wins", "The best arm of each setting", caption, query)
    for field, name in (("alpha", "α"), ("local_steps", "E")):
        plot = plots.accuracy_by_field(summary, field, width)
        heading = f"Accuracy by {name}"
        yield from _captioned(plot, f"accuracy-by-{field}", heading, _BARS, query)
    if results:
        caption = (
            "For each arm: the values at each T⋆, the mean of a Gaussian process with its 95 % "
            "interval, and the best T⋆ with its 90 % interval."
        )
        by_probe = queries.search_query(summary.sweep, results[0].arm.spec.search.metric)
        plot = search_plot.searches(results, arm_names(results), width)
        yield from _captioned(plot, "searches", "The best freeze round", caption, by_probe)
    caption = "Level lines: the normalizers without a T⋆. " + _BARS
    plot = plots.accuracy_by_freeze_round(summary, width)
    heading = "Accuracy by freeze round"
    yield from _captioned(plot, "accuracy-by-freeze-round", heading, caption, query)


def _by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves_by_measure: Mapping[str, Curves],
    conditions: Sequence[Condition],
    width: float | None,
) -> Iterator[CaptionedFigure]:
    # A centralized trial has one client, so measures between clients mean nothing for it.
    federated = [row for row in rows if not row["centralized"]]
    for name in CURVES:
        measure, curves = MEASURES[name], curves_by_measure.get(name, {})
        is_accuracy = name == "test_accuracy"
        if measure.curve == "alpha":
            plot = plots.alphas_by_round(summary, federated, curves, measure, width)
        else:
            used = rows if is_accuracy else federated
            plot = plots.arms_by_round(summary, used, curves, measure, width)
        quantity = "accuracy" if is_accuracy else measure.label
        heading = f"{quantity[0].upper()}{quantity[1:]} by round"
        forked = measure.curve == "arm" and any(column[0] == "fixbn" for column in summary.columns)
        caption = f"{_BAND} {_FORK}" if forked else _BAND
        query = queries.curves_query(summary.sweep, name, conditions)
        yield from _captioned(plot, f"{slug(quantity)}-by-round", heading, caption, query)


def slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(stem: str, figures: Sequence[CaptionedFigure], folder: Path) -> list[Path]:
    """Write each figure as <stem>-<name>.pdf, .svg and .png, and its data as .csv.

    Return the files.

    Raises:
        RequestError: the folder cannot be written.

    """
    files = []
    try:
        make_folder(folder)
        for figure in figures:
            for kind in FORMATS:
                file = folder / f"{stem}-{figure.name}.{kind}"
                write_whole(file, figure.written(kind))
                files.append(file)
            file = folder / f"{stem}-{figure.name}.csv"
            write_whole(file, (figure.data.csv() or "").encode())
            files.append(file)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return files
