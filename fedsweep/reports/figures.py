"""All figures of a sweep, each with a caption and the query that gives its numbers."""

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
from fedsweep.reports import plots, queries
from fedsweep.reports.grouping import Summary
from fedsweep.reports.labels import Row
from fedsweep.reports.search_results import SearchResult, arm_names
from fedsweep.reports.selection import Condition
from fedsweep.store.rows import Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")

_BAND = "Mean over seeds. The band is one sample standard deviation."
_BARS = "Final test accuracy, mean over seeds ± one sample standard deviation."


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its texts. `name` is a part of its file names."""

    name: str
    heading: str
    caption: str
    query: str
    figure: Figure

    def svg(self) -> str:
        """Return the figure as an SVG element of a page."""
        text = self.written("svg").decode()
        return text[text.index("<svg") :]

    def written(self, kind: str) -> bytes:
        """Return the content of a file in one of FORMATS.

        Equal figures give equal files. Text in a PDF can be searched.
        """
        out = io.BytesIO()
        metadata: dict[str, str | None] = {"Title": self.heading}
        if kind == "pdf":
            metadata["CreationDate"] = None
        if kind == "svg":
            metadata |= {"Date": None, "Creator": None}
        with rc_context({"svg.hashsalt": "fedsweep", "pdf.fonttype": 42}):
            self.figure.savefig(out, format=kind, dpi=200, metadata=metadata)
        return out.getvalue()


def captioned_figures(
    summary: Summary,
    rows: Sequence[Row],
    curves: Mapping[str, Curves],
    results: Sequence[SearchResult] = (),
    conditions: Sequence[Condition] = (),
) -> list[CaptionedFigure]:
    """Return the figures for which the sweep has data, in the order of the page."""
    return [*_final(summary, conditions, results), *_by_round(summary, rows, curves, conditions)]


def _final(
    summary: Summary, conditions: Sequence[Condition], results: Sequence[SearchResult]
) -> Iterator[CaptionedFigure]:
    query = queries.table_query(summary, "test_accuracy", conditions)
    if figure := plots.wins(summary):
        caption = (
            "The best mean of each setting, and its lead over the next, in points. An arm with a "
            "missing trial takes no part."
        )
        yield CaptionedFigure("wins", "The best arm of each setting", caption, query, figure)
    for field, name in (("alpha", "α"), ("local_steps", "E")):
        if figure := plots.accuracy_by_field(summary, field):
            heading = f"Accuracy by {name}"
            yield CaptionedFigure(f"accuracy-by-{field}", heading, _BARS, query, figure)
    if results and (figure := plots.searches(results, arm_names(results))):
        caption = (
            "For each arm: the values at each T⋆, the mean of a Gaussian process with its 95 % "
            "interval, and the best T⋆ with its 90 % interval."
        )
        by_probe = queries.search_query(summary.sweep, results[0].arm.spec.search.metric)
        yield CaptionedFigure("searches", "The best freeze round", caption, by_probe, figure)
    if figure := plots.accuracy_by_freeze_round(summary):
        caption = "Dashed lines: the normalizers without a T⋆. " + _BARS
        heading = "Accuracy by freeze round"
        yield CaptionedFigure("accuracy-by-freeze-round", heading, caption, query, figure)


def _by_round(
    summary: Summary,
    rows: Sequence[Row],
    curves_by_measure: Mapping[str, Curves],
    conditions: Sequence[Condition],
) -> Iterator[CaptionedFigure]:
    def captioned(measure: str, quantity: str, figure: Figure | None) -> Iterator[CaptionedFigure]:
        if figure is not None:
            name = f"{slug(quantity)}-by-round"
            heading = f"{quantity[0].upper()}{quantity[1:]} by round"
            query = queries.curves_query(summary.sweep, measure, conditions)
            yield CaptionedFigure(name, heading, _BAND, query, figure)

    accuracy = plots.arms_by_round(summary, rows, curves_by_measure.get("test_accuracy", {}))
    yield from captioned("test_accuracy", "accuracy", accuracy)
    # A centralized trial has one client, so measures between clients mean nothing for it.
    federated = [row for row in rows if not row["centralized"]]
    for measure in (MEASURES[name] for name in CURVES if name != "test_accuracy"):
        curves, axis = curves_by_measure.get(measure.name, {}), measure.heading
        if measure.curve == "alpha":
            shown = plots.alphas_by_round(summary, federated, curves, axis)
        else:
            shown = plots.arms_by_round(summary, federated, curves, axis, measure.scale)
        yield from captioned(measure.name, measure.label, shown)


def slug(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(stem: str, figures: Sequence[CaptionedFigure], folder: Path) -> list[Path]:
    """Write each figure as <stem>-<name>.pdf, .svg and .png, and return the files.

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
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return files
