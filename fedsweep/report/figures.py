"""All figures of a sweep, each with what it shows and the query that gives its numbers."""

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
from fedsweep.report import plots, queries
from fedsweep.report.findings import Finding, names
from fedsweep.report.grouping import Summary
from fedsweep.report.labels import Row
from fedsweep.report.selection import Condition
from fedsweep.store.rows import Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("pdf", "svg", "png")

_BAND = "Mean over seeds; the band is one sample standard deviation."
_BARS = "Final test accuracy, mean over seeds ± one sample standard deviation."


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure; `name` is its file's."""

    name: str
    heading: str
    caption: str
    query: str
    figure: Figure

    def svg(self) -> str:
        """As an element of a page."""
        text = self.written("svg").decode()
        return text[text.index("<svg") :]

    def written(self, kind: str) -> bytes:
        """As a file of one of KINDS, the same each time; text stays text."""
        out = io.BytesIO()
        said: dict[str, str | None] = {"Title": self.heading}
        said |= {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": None}}.get(
            kind, {}
        )
        with rc_context({"svg.hashsalt": "fedsweep", "pdf.fonttype": 42}):
            self.figure.savefig(out, format=kind, dpi=200, metadata=said)
        return out.getvalue()


def captioned_figures(
    summary: Summary,
    rows: Sequence[Row],
    curves: Mapping[str, Curves],
    findings: Sequence[Finding] = (),
    conditions: Sequence[Condition] = (),
) -> list[CaptionedFigure]:
    """Those that the sweep has something to show in, in the order of reading."""
    return [*_final(summary, conditions, findings), *_by_round(summary, rows, curves, conditions)]


def _final(
    summary: Summary, conditions: Sequence[Condition], findings: Sequence[Finding]
) -> Iterator[CaptionedFigure]:
    query = queries.of_table(summary, "test_accuracy", conditions)
    if figure := plots.wins(summary):
        caption = (
            "The best mean of each setting, and its lead over the next, in points. An arm that "
            "lacks a trial takes no part."
        )
        yield CaptionedFigure("wins", "Who wins where", caption, query, figure)
    for field, name in (("alpha", "α"), ("local_steps", "E")):
        if figure := plots.accuracy_by_field(summary, field):
            heading = f"Accuracy by {name}"
            yield CaptionedFigure(f"accuracy-by-{field}", heading, _BARS, query, figure)
    if findings and (figure := plots.searches(findings, names(findings))):
        caption = (
            "Each arm: what was seen at each T⋆, what a Gaussian process believes between, with "
            "its 95 % interval, and the best T⋆ with its 90 %."
        )
        sought = queries.searched(summary.sweep, findings[0].arm.spec.search.metric)
        yield CaptionedFigure("searches", "The best freeze round", caption, sought, figure)
    if figure := plots.accuracy_by_freeze_round(summary):
        caption = "FIXBN's final accuracy over T⋆; the other normalizers as dashed lines. " + _BARS
        heading = "Accuracy by freeze round"
        yield CaptionedFigure("accuracy-by-freeze-round", heading, caption, query, figure)


def _by_round(
    summary: Summary,
    rows: Sequence[Row],
    taken: Mapping[str, Curves],
    conditions: Sequence[Condition],
) -> Iterator[CaptionedFigure]:
    def captioned(measure: str, what: str, figure: Figure | None) -> Iterator[CaptionedFigure]:
        if figure is not None:
            name, heading = f"{slug(what)}-by-round", f"{what[0].upper()}{what[1:]} by round"
            query = queries.curves(summary.sweep, measure, conditions)
            yield CaptionedFigure(name, heading, _BAND, query, figure)

    accuracy = plots.arms_by_round(summary, rows, taken.get("test_accuracy", {}))
    yield from captioned("test_accuracy", "accuracy", accuracy)
    # Nothing goes on between one: of centralized trials only the accuracy is drawn.
    federated = [row for row in rows if not row["centralized"]]
    for measure in (MEASURES[name] for name in CURVES if name != "test_accuracy"):
        curves, axis = taken.get(measure.name, {}), measure.heading
        if measure.curve == "alpha":
            shown = plots.alphas_by_round(summary, federated, curves, axis)
        else:
            shown = plots.arms_by_round(summary, federated, curves, axis, measure.scale)
        yield from captioned(measure.name, measure.label, shown)


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(stem: str, found: Sequence[CaptionedFigure], folder: Path) -> list[Path]:
    """Each figure as PDF, SVG and PNG: <stem>-<name>.<kind>.

    Raises:
        RequestError: the folder cannot be written.

    """
    files = []
    try:
        make_folder(folder)
        for figure in found:
            for kind in KINDS:
                file = folder / f"{stem}-{figure.name}.{kind}"
                write_whole(file, figure.written(kind))
                files.append(file)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return files
