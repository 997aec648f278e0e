"""The layout of figures: every text lies inside its figure."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedsweep.reports import layout, partition_figure, plots, wins_plot
from fedsweep.reports.figures import CaptionedFigure, captioned_figures
from fedsweep.reports.grouping import summarize
from fedsweep.reports.labels import Row
from tests.unit.reports.figures import check, held
from tests.unit.reports.rows import trial

LONG = "some_package:filter_response_normalization_with_a_learned_threshold"


def study(
    arms: int,
    normalizers: Sequence[str] = ("bn", "gn", "ln", "in"),
    alphas: Sequence[float] = (0.1, 0.5),
    steps: Sequence[int] = (1, 20),
    **more: Any,
) -> list[Row]:
    """Return a row for each arm at each α and E. Half of the arms are fixbn."""
    names = [(name, None) for name in normalizers][: max(arms // 2, 1)]
    columns = [*names, *(("fixbn", 10 * i) for i in range(arms - len(names)))]
    number = count()
    return [
        trial(
            name,
            0,
            0.5 + 0.01 * place,
            freeze_round=frozen,
            alpha=alpha,
            local_steps=step,
            rounds=128,
            **more,
        )
        | {"trial_id": f"t{next(number)}"}
        for place, (name, frozen) in enumerate(columns)
        for alpha in alphas
        for step in steps
    ]


def taken(rows: list[Row]) -> dict[str, dict[int, float]]:
    return {row["trial_id"]: {r: row["test_accuracy"] * r for r in (1, 64, 128)} for row in rows}


def drawn(rows: list[Row]) -> list[CaptionedFigure]:
    curves = taken(rows)
    measures = ("test_accuracy", "statistics_mismatch")
    return captioned_figures(summarize("s", rows), rows, dict.fromkeys(measures, curves))


SLOW = ("two arms", "twelve arms")
"""The cases that "long names" includes. Their tests are slow."""

CASES = {
    SLOW[0]: study(2),
    SLOW[1]: study(12),
    "long names": study(12, ("bn", "gn", LONG, f"{LONG}_2"), steps=(1,)),
    "one long name": study(1, (LONG,), steps=(1,)),
    "mathematics in a name": study(4, ("bn", "p:$\\frac$"), steps=(1,)),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
)
def test_every_text_of_every_figure_lies_inside_it(case: str) -> None:
    """The texts are legends, titles, labels, ticks and names of winners."""
    figures = drawn(CASES[case])
    assert len(figures) >= 3
    for figure in figures:
        check(figure.figure)


def test_every_text_of_many_panels_lies_inside_their_figure() -> None:
    """The heading that says how many are left out lies inside, too."""
    rows = study(2, steps=range(1, 16))
    plot = plots.arms_by_round(summarize("s", rows), rows, taken(rows))
    assert plot is not None
    assert plot.figure.get_suptitle() == "the first 24 of 30 settings: --where shows others"
    check(plot.figure)


def test_ticks_of_many_values_do_not_overlap_and_winners_stay_in_their_cells() -> None:
    """A long normalizer wins at each of fourteen values of α."""
    rows = study(2, (LONG,), alphas=[0.01 * 1.2**i for i in range(14)])
    summary = summarize("s", rows)
    by_alpha, wins = plots.accuracy_by_field(summary, "alpha"), wins_plot.wins(summary)
    assert by_alpha is not None
    assert wins is not None
    check(by_alpha.figure)
    check(wins.figure)
    for axis in by_alpha.figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
        assert len(boxes) == 14
        assert not any(right.x0 < left.x1 for left, right in pairwise(boxes))
    (axis,) = wins.figure.axes
    assert len(axis.texts) == len(axis.patches) == 28
    for text, cell in zip(axis.texts, axis.patches, strict=True):
        box, place = text.get_window_extent(), cell.get_window_extent()
        assert place.x0 <= box.x0 < box.x1 <= place.x1
        assert place.y0 <= box.y0 < box.y1 <= place.y1


@pytest.mark.parametrize("arms", [pytest.param(2, marks=pytest.mark.slow), 12])
def test_saved_files_are_not_cut(arms: int) -> None:
    """The edge of a PNG is white. The page of a PDF or SVG is the whole figure."""
    for figure in drawn(study(arms, steps=(1,)))[:2]:
        with Image.open(io.BytesIO(figure.written("png"))) as opened:
            gray = np.asarray(opened.convert("L"))
        edges = np.concatenate(
            [gray[:4].ravel(), gray[-4:].ravel(), gray[:, :4].ravel(), gray[:, -4:].ravel()]
        )
        assert edges.min() == 255
        wide, high = (72 * inches for inches in figure.figure.get_size_inches())
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", figure.written("pdf"))
        assert box is not None
        assert [float(side) for side in box.groups()] == pytest.approx([wide, high], abs=0.01)
        svg = figure.svg()
        view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert view is not None
        assert [float(side) for side in view.groups()] == pytest.approx([wide, high], abs=0.01)
        for x, y in re.findall(r'<g [^>]*transform="translate\(([-\d.]+) ([-\d.]+)\)', svg):
            assert 0 <= float(x) <= wide
            assert 0 <= float(y) <= high


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("clients", "classes", "panels"), [(3, 2, 1), (3, 20, 4), (40, 21, 2), (41, 10, 5)]
)
def test_every_text_of_a_partition_lies_inside_it(clients: int, classes: int, panels: int) -> None:
    """The figures have bars, a heat map or a color scale of classes."""
    shown = [
        held(clients, classes, alpha=0.001 * 10**i, partition="dirichlet-class")
        for i in range(panels)
    ]
    check(partition_figure.figure(shown))


def test_lines_are_wrapped_by_their_width() -> None:
    """They are wrapped at spaces and inside words that are too wide. No letter is lost."""
    text = f"{LONG} WWWWWWWW and iiiiii {LONG}"
    lines = layout.wrapped(text, 1.2).split("\n")
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(layout.width(line) <= 1.2 for line in lines)
    assert layout.wrapped("short", 1.2) == "short"
    assert layout.wrapped("", 1.2) == ""
