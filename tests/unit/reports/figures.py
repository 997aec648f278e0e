"""Checks of figures, and the data of a partition."""

from __future__ import annotations

import html
import re
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from fedsweep.plans import Holdings, TrainConfig
from fedsweep.reports.figures import CaptionedFigure
from fedsweep.reports.panels import Plot


def config(**more: Any) -> TrainConfig:
    fields = {"dataset": "digits", "model": "cnn", "normalizer": "bn", "clients": 3, "rounds": 2}
    fields |= {"local_steps": 1, "batch_size": 4, "lr": 0.1, "alpha": 0.1}
    return TrainConfig(**{**fields, **more})


def held(clients: int, classes: int, unit: str = "samples", **more: Any) -> Holdings:
    """Return holdings in which client m has m + k samples of class k."""
    counts = tuple(tuple(m + k for k in range(classes)) for m in range(clients))
    return Holdings(config(clients=clients, **more), counts, unit)


def check(figure: Figure) -> None:
    """Check that every text lies inside the figure, and that no two parts overlap.

    Parts are panels, legends and headings. The box of a panel includes its title, labels, ticks and
    texts.
    """
    figure.draw_without_rendering()
    parts = [axis.get_tightbbox() for axis in figure.axes if axis.get_visible()]
    parts += [legend.get_window_extent() for legend in figure.legends]
    parts += [text.get_window_extent() for text in figure.texts]
    words = [text for legend in figure.legends for text in legend.get_texts()]
    whole = figure.bbox
    for box in (*parts, *(text.get_window_extent() for text in words)):
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    for one, other in combinations(parts, 2):
        both = Bbox.intersection(one, other)
        assert both is None or min(both.width, both.height) <= 1.0


def captioned(plot: Plot | None) -> CaptionedFigure:
    assert plot is not None
    return CaptionedFigure("name", "Heading", "caption", "SELECT 1", plot.figure, plot.data)


def svg(plot: Plot | None) -> str:
    """Return the SVG element of a page."""
    return captioned(plot).svg()


def words(svg: str) -> list[str]:
    """Return the texts of an SVG."""
    return [html.unescape(text) for text in re.findall("<text[^>]*>(.*?)</text>", svg)]


def panels(figure: Figure) -> list[Axes]:
    """Return the panels that are visible."""
    return [axis for axis in figure.axes if axis.get_visible()]
