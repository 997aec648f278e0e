"""Figures as a paper needs them: width, fonts, names, order and data."""

from __future__ import annotations

import base64
import csv
import io
import random
import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from fedsweep.errors import RequestError
from fedsweep.reports import figures, latex, page, plots, tables, wins_plot
from fedsweep.reports.direct_labels import spread
from fedsweep.reports.figure_data import FigureData
from fedsweep.reports.figures import CaptionedFigure, captioned_figures
from fedsweep.reports.grouping import Summary, column_text, summarize
from fedsweep.reports.labels import Row
from fedsweep.reports.panels import Plot
from fedsweep.reports.paper import COLUMN, PAGE, figure_width
from fedsweep.reports.tables import ReportOptions
from fedsweep.store.rows import Curves
from tests.unit.reports.figures import check, panels, words
from tests.unit.reports.rows import trial


def study(
    normalizers: Sequence[str] = ("gn", "bn"),
    freeze_rounds: Sequence[int] = (40, 20, 60),
    alphas: Sequence[float] = (0.1,),
    seeds: Sequence[int] = (0, 1),
    **more: Any,
) -> tuple[list[Row], Curves]:
    """Return trials, and curves of ten rounds that end far from each other."""
    arms = [*((name, None) for name in normalizers), *(("fixbn", t) for t in freeze_rounds)]
    rows: list[Row] = [
        trial(name, seed, 0.9 - 0.05 * place + 0.01 * seed, freeze_round=t, alpha=alpha, rounds=100)
        | more
        | {"trial_id": f"{name} {t} {alpha} {seed} {more}"}
        for alpha in alphas
        for place, (name, t) in enumerate(arms)
        for seed in seeds
    ]
    curves = {
        row["trial_id"]: {r: row["test_accuracy"] * r / 100 for r in range(10, 101, 10)}
        for row in rows
    }
    return rows, curves


def drawn(
    rows: Sequence[Row], curves: Curves, width: float | None = None
) -> dict[str, CaptionedFigure]:
    summary = summarize("s", rows)
    shown = captioned_figures(summary, rows, {"test_accuracy": curves}, width=width)
    return {figure.name: figure for figure in shown}


def by_round(rows: Sequence[Row], curves: Curves, width: float | None = None) -> Plot:
    plot = plots.arms_by_round(summarize("s", rows), rows, curves, width=width)
    assert plot is not None
    return plot


def names_at_lines(figure: Figure) -> list[Text]:
    return [text for axis in panels(figure) for text in axis.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def test_a_width_is_a_name_or_inches() -> None:
    """Any other text is refused in one sentence."""
    widths = {"auto": None, "column": COLUMN, "page": PAGE, "5.5": 5.5, "2": 2.0}
    assert {text: figure_width(text) for text in widths} == widths
    for text in ("wide", "1.9", "31", "nan", "-3", ""):
        with pytest.raises(RequestError, match="use auto, column, page, or inches from 2 to 30"):
            figure_width(text)


@pytest.mark.parametrize(
    ("alphas", "asked", "inches"),
    [
        ((0.1, 1.0), None, PAGE),
        ((0.1,), 5.5, 5.5),
        ((0.1, 1.0, 10.0, 100.0), COLUMN, COLUMN),
    ],
)
def test_a_figure_has_its_width_and_fonts_of_seven_to_eight_points(
    alphas: Sequence[float], asked: float | None, inches: float
) -> None:
    """The page of the PDF is exactly as wide. Every text lies inside."""
    for name, one in drawn(*study(alphas=alphas), asked).items():
        figure = one.figure
        assert figure.get_figwidth() == pytest.approx(
            COLUMN if asked is None and len(panels(figure)) == 1 else inches, abs=1e-9
        ), name
        check(figure)
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
        assert sizes <= {7.0, 8.0}
        right = max(axis.get_tightbbox().x1 for axis in panels(figure))
        assert figure.bbox.x1 - right <= 0.1 * figure.dpi  # the panels fill the width


def test_a_pdf_embeds_truetype_an_svg_has_text_and_a_png_has_300_dots_per_inch() -> None:
    """A PDF of column width is 234 points wide, and none of its fonts is of Type 3."""
    one = drawn(*study())["accuracy-by-round"]
    pdf = one.written("pdf")
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
    assert box is not None
    assert float(box.group(1)) == pytest.approx(72 * COLUMN, abs=0.01)
    assert b"/FontFile2" in pdf
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    assert {"BN", "FIXBN T⋆=20", "round", "test accuracy, %"} <= set(words(one.svg()))
    with Image.open(io.BytesIO(one.written("png"))) as png:
        assert png.width == pytest.approx(300 * COLUMN, abs=1)
        assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_names_stand_at_the_ends_of_lines_if_there_is_room() -> None:
    """No two of them overlap, each stands after its arm's marker, and there is no legend."""
    plot = by_round(*study())
    names = names_at_lines(plot.figure)
    texts = [name.get_text() for name in names]
    assert texts == ["BN", "FIXBN T⋆=20", "FIXBN T⋆=40", "FIXBN T⋆=60", "GN"]
    assert not plot.figure.legends
    plot.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(name) for name in names]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    (axis,) = panels(plot.figure)
    assert all(box.x0 > axis.bbox.x1 for box in boxes)
    ends = {line.get_label(): line.get_ydata()[-1] for line in axis.lines}
    markers = [line for line in axis.lines if not line.get_clip_on()]
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in markers}) == 5
    for marker, box in zip(markers, boxes, strict=True):
        x, y = marker.get_transform().transform((1.0, marker.get_ydata()[0]))
        assert axis.bbox.x1 < x < box.x0
        assert box.y0 < y < box.y1
    heights = {name.get_text(): box.y0 for name, box in zip(names, boxes, strict=True)}
    assert sorted(heights, key=heights.__getitem__) == sorted(texts, key=ends.__getitem__)


def test_a_legend_in_the_order_of_the_table_names_arms_without_room() -> None:
    """Eighteen arms have too many names for the height of a panel."""
    normalizers = ("ws", "gn", "bn", "none", "in", "ln", "some:thing")
    rows, curves = study(normalizers, range(100, -1, -10), seeds=(0,))
    plot = by_round(rows, curves)
    assert not names_at_lines(plot.figure)
    frozen = [f"FIXBN T⋆={t}" for t in range(0, 101, 10)]
    assert legend(plot.figure) == ["BN", *frozen, "GN", "LN", "IN", "NONE", "WS", "SOME:THING"]
    check(plot.figure)


def in_order(names: Sequence[str], summary: Summary) -> bool:
    """Return whether names of arms, with or without T*, are in the order of a table's columns."""
    columns = [column_text(summary, column) for column in summary.columns]
    ranks = [next(i for i, c in enumerate(columns) if c.startswith(name)) for name in names]
    return ranks == sorted(ranks) and len(set(names)) == len(names)


def test_arms_have_one_order_in_all_figures_tables_and_data() -> None:
    """The first panel lacks the first arm, and the plan had another order."""
    rows, curves = study(("in", "gn", "bn", "ln"), (60, 20), alphas=(0.1, 1.0, 10.0))
    rows = [row for row in rows if (row["normalizer"], row["alpha"]) != ("bn", 0.1)]
    summary = summarize("s", rows)
    every = [column_text(summary, column) for column in summary.columns]
    assert every == ["BN", "FIXBN T⋆=20", "FIXBN T⋆=60", "GN", "LN", "IN"]
    assert tables.headings(summary)[-6:] == every
    document = latex.document([(summary, ReportOptions())])
    at = [document.index(name) for name in ("& BN", "& FIXBN", "& GN", "& LN", "& IN")]
    assert at == sorted(at)
    shown = drawn(rows, curves)
    assert {"accuracy-by-alpha", "accuracy-by-freeze-round", "accuracy-by-round"} <= set(shown)
    for figure in shown.values():
        names = legend(figure.figure)
        assert in_order(names, summary)
        for axis in panels(figure.figure) if figure.name != "wins" else ():
            assert in_order([text.get_text() for text in axis.texts], summary)
        per_panel: dict[tuple[Any, ...], list[str]] = {}
        axes = summary.axes if figure.name != "accuracy-by-alpha" else ()
        places = [figure.data.columns.index(axis) for axis in axes]
        for row in figure.data.rows:
            key = tuple(row[place] for place in places)
            seen = per_panel.setdefault(key, [])
            seen += [] if row[0] in seen else [row[0]]
        assert all(in_order(names, summary) for names in per_panel.values())


def points(figure: Figure) -> set[tuple[float, float]]:
    """Return the points of all lines. The caps of error bars are no lines."""
    lines = [line for axis in panels(figure) for line in axis.lines]
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in lines
        if line.get_linestyle() != "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_the_data_are_the_numbers_that_are_drawn() -> None:
    """Columns are named as in the views. A fraction is drawn in percent."""
    rows, curves = study(alphas=(0.1, 1.0))
    shown = drawn(rows, curves)
    for name, x in (
        ("accuracy-by-round", "round"),
        ("accuracy-by-alpha", "alpha"),
        ("accuracy-by-freeze-round", "freeze_round"),
    ):
        text = shown[name].data.csv()
        assert text is not None
        records = list(csv.DictReader(io.StringIO(text)))
        ahead = ["arm", "normalizer", "freeze_round", "alpha", "local_steps", "momentum"]
        numbers = ["n", "mean_test_accuracy", "std_test_accuracy"]
        assert list(records[0]) == [*ahead, *(["round"] if x == "round" else []), *numbers]
        assert {record["n"] for record in records} == {"2"}
        written = {
            (float(r[x]), round(100 * float(r["mean_test_accuracy"]), 6)) for r in records if r[x]
        }
        assert written <= points(shown[name].figure)
        if x != "freeze_round":  # its level lines have no T*
            assert written == points(shown[name].figure)
    cell = summarize("s", rows).cells[0.1, 5, "reset"]["fixbn", 20]
    (row,) = [
        row
        for row in shown["accuracy-by-freeze-round"].data.rows
        if row[:4] == ("FIXBN T⋆=20", "fixbn", 20, 0.1)
    ]
    assert row[-3:] == (2, cell.mean, cell.std)


def test_bands_and_bars_are_one_standard_deviation_of_the_data() -> None:
    """A point of one trial has no standard deviation."""
    (first, *_), columns = by_round(*study(("gn",), ())).data.rows, slice(-3, None)
    assert first[columns] == (2, pytest.approx(0.0905), pytest.approx(0.001 / 2**0.5))
    (alone, *_) = by_round(*study(("gn",), (), seeds=(0,))).data.rows
    assert alone[columns] == (1, pytest.approx(0.09), None)
    plot = by_round(*study(("gn",), ()))
    (axis,) = panels(plot.figure)
    band = axis.collections[0].get_paths()[0].vertices
    lows = {round(float(y), 6) for x, y in band if x == 10}
    mean, std = 9.05, 0.1 / 2**0.5
    assert lows == {round(mean - std, 6), round(mean + std, 6)}
    captions = {name: figure.caption for name, figure in drawn(*study()).items()}
    assert "The band is one sample standard deviation." in captions["accuracy-by-round"]
    assert "± one sample standard deviation" in captions["accuracy-by-freeze-round"]


def test_the_data_of_winners_have_their_lead() -> None:
    rows = [row for steps in (1, 5) for row in study(local_steps=steps)[0]]
    plot = wins_plot.wins(summarize("s", rows))
    assert plot is not None
    assert plot.data.columns[-1] == "lead"
    assert [(row[0], row[-1]) for row in plot.data.rows] == [("GN", pytest.approx(0.05))] * 2


def test_each_figure_of_a_page_has_a_link_to_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link contains the CSV. If the data are too large, the page says how to get them."""
    rows, curves = study()
    shown = list(drawn(rows, curves).values())
    section = page.Section(summarize("my s", rows), ReportOptions(), shown, "")
    text = page.render([section], "now")
    pattern = r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"'
    links = re.findall(pattern, text)
    assert [name for name, _ in links] == [f"my-s-{figure.name}.csv" for figure in shown]
    contents = [base64.b64decode(content).decode() for _, content in links]
    assert contents == [figure.data.csv() for figure in shown]
    monkeypatch.setattr(page, "MOST_DATA", 1000)
    sizes = [len(figure.data.csv() or "") for figure in shown]
    large = sum(size > 1000 for size in sizes)
    text = page.render([section], "now")
    assert 0 < large < len(shown)
    assert text.count("too large for this page") == large
    assert text.count('download="') == len(shown) - large


def test_too_many_data_are_not_written() -> None:
    data = FigureData(("a",), [(i,) for i in range(100)])
    assert data.csv(10) is None
    assert data.csv(1000) == data.csv() == "a\n" + "".join(f"{i}\n" for i in range(100))


def test_a_folder_has_the_data_of_each_figure(tmp_path: Path) -> None:
    """The file has the name of its figure."""
    shown = drawn(*study())
    files = figures.write("s", [shown["accuracy-by-round"]], tmp_path)
    assert [file.name for file in files] == [
        f"s-accuracy-by-round.{kind}" for kind in ("pdf", "svg", "png", "csv")
    ]
    assert files[-1].read_text() == shown["accuracy-by-round"].data.csv()


@pytest.mark.parametrize("seed", range(20))
def test_spread_names_keep_their_order_and_distance(seed: int) -> None:
    """Names that are far enough apart stay. Names without room have no places."""
    random_heights = random.Random(seed)
    heights = [random_heights.random() for _ in range(random_heights.randrange(1, 12))]
    places = spread(heights, 0.09, 1.0)
    assert places is not None
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    in_order = [place for _, place in sorted(zip(heights, places, strict=True))]
    assert all(high - low >= 0.09 - 1e-9 for low, high in pairwise(in_order))
    assert spread(places, 0.09, 1.0) == pytest.approx(places)
    assert spread(heights, 1 / len(heights) + 0.5, 0.4) is None or len(heights) == 1


def test_names_move_as_little_as_possible() -> None:
    """Two equal heights move to both sides, and the first one is above."""
    assert spread([0.5, 0.5], 0.2, 1.0) == pytest.approx([0.6, 0.4])
    assert spread([0.0, 0.1], 0.2, 1.0) == pytest.approx([0.0, 0.2])
    assert spread([0.95, 1.0, 0.2], 0.2, 1.0) == pytest.approx([0.8, 1.0, 0.2])
    assert spread([0.1, 0.2, 0.3], 0.6, 1.0) is None
