"""The figure of a sweep's partitions: the samples of each client by class.

Each partition has a panel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, PowerNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fedsweep.errors import PlanError, RequestError, visible
from fedsweep.files import written
from fedsweep.plans import Holdings, SweepSpec, TrainConfig, Trials
from fedsweep.reports import layout
from fedsweep.reports.labels import sort_key, value_text

Counts = NDArray[np.int64]

MOST_PANELS = 12
"""The most partitions that a figure shows."""
MOST_BARS = 40
"""The most clients that are drawn as bars. More clients become a heat map."""
MOST_NAMES = 20
"""The most classes that a legend names. More classes become a color scale."""
SHORT, MOST_SHORT = 2, 12
"""The characters of a short label, such as a number, and the most short ones in a legend's row."""
MOST_CHARACTERS = 16
"""The most characters of a name. A longer one is cut."""
LEGEND_FONT = 10.0
"""The font size of the legend, in points."""
HEADING_FONT = 11.0
"""The font size of the heading, in points."""
PARTITION_FIELDS = ("dataset", "partition", "alpha", "min_samples", "shards_per_client", "clients")
"""The fields other than the seed in which partitions differ."""

PALETTE = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE",
    "#AA3377", "#BBBBBB", "#EE7733", "#885533", "#332288",
)  # fmt: skip
"""Colors of ten classes, most of them by Paul Tol. Ten more classes have lighter ones."""


def distinct(sweep: SweepSpec) -> list[TrainConfig]:
    """Return a configuration for each partition of a sweep, with its lowest seed.

    Raises:
        PlanError: every trial is centralized, so there are no clients.

    """
    configs: dict[tuple[object, ...], TrainConfig] = {}
    for config in Trials.of(sweep.trials).distinct("centralized", *PARTITION_FIELDS, "seed"):
        if not config.centralized:
            key = tuple(getattr(config, name) for name in PARTITION_FIELDS)
            if config.seed < configs.setdefault(key, config).seed:
                configs[key] = config
    if not configs:
        raise PlanError(f"every trial of {sweep.name} is centralized: there is no partition")
    return [configs[key] for key in sorted(configs, key=sort_key)]


@contextmanager
def drawn(holdings: Sequence[Holdings], path: Path) -> Iterator[None]:
    """Draw the figure. The file gets its name when the block ends.

    The suffix of the path gives the format.

    Raises:
        RequestError: the file cannot be written.

    """
    with ExitStack() as stack:
        with _refused(path):
            file = stack.enter_context(written(path))
            kind = path.suffix[1:].lower()
            figure(holdings).savefig(file, format=kind, dpi=150, facecolor="white")
        yield
        with _refused(path):
            stack.close()


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written to ({error.strerror or error}): name another file with "
            "--show-partition"
        ) from error


def figure(holdings: Sequence[Holdings]) -> Figure:
    """Draw a panel for each partition: bars by client, or a heat map of many clients."""
    counts = [np.array(held.counts, dtype=np.int64) for held in holdings]
    colors = _colors(max(count.shape[1] for count in counts))
    columns = min(len(holdings), 3)
    rows = -(-len(holdings) // columns)
    size = _size(rows, columns, max(map(_lines, holdings)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, held, count in zip(axes, holdings, counts, strict=False):
        unit = f"training {held.unit}"
        if len(count) > MOST_BARS:
            _heat_map(axis, count, unit, held.classes)
        else:
            _bars(axis, count, colors, unit, held.clients)
        title = layout.wrapped(_title(held, holdings), size[0] / columns - 1.0)
        axis.set_title(title, fontsize=layout.FONT, parse_math=False)
    for spare in axes[len(holdings) :]:
        spare.set_visible(False)
    if any(len(count) <= MOST_BARS for count in counts):
        _name_classes(
            figure, list(axes[: len(holdings)]), colors, _class_names(holdings, len(colors))
        )
    heading = layout.wrapped(_heading(holdings), size[0] - 0.4, HEADING_FONT)
    figure.suptitle(heading, fontsize=HEADING_FONT, parse_math=False)
    return figure


def _lines(held: Holdings) -> int:
    """Return the lines of text at the left of a panel: its clients, or the names of classes."""
    if len(held.counts) <= MOST_BARS:
        return len(held.counts)
    return len(held.classes) if len(held.classes) <= MOST_NAMES else 0


def _size(rows: int, columns: int, lines: int) -> tuple[float, float]:
    """Return the size of the figure in inches. A line of each panel is as high as its text."""
    return max(3.9 * columns, 6.0), rows * max(2.7, 1.0 + 0.16 * lines) + 1.1


def _class_names(holdings: Sequence[Holdings], classes: int) -> list[str]:
    """Return the labels of the classes: their names, if all panels have the same ones."""
    names = {held.classes for held in holdings}
    return _labels(names.pop() if len(names) == 1 else (), classes)


def _labels(names: Sequence[str], count: int) -> list[str]:
    """Return names that fit a figure; numbers if there are no names.

    If two names are equal after the cut, their numbers stand before them. If the font lacks a
    letter of a name, its number is shown instead.
    """
    numbers = [str(i) for i in range(count)]
    if len(names) != count:
        return numbers
    cut = [_cut(" ".join(visible(name).split())) for name in names]
    often = Counter(cut)
    numbered = [name if often[name] == 1 else _cut(f"{i} {name}") for i, name in enumerate(cut)]
    return [name if _can_be_drawn(name) else i for i, name in zip(numbers, numbered, strict=True)]


def _cut(name: str) -> str:
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"


def _can_be_drawn(text: str) -> bool:
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(letter)) for letter in text)


def _bars(
    axis: Axes, counts: Counts, colors: Sequence[str], unit: str, names: Sequence[str]
) -> None:
    """Draw a bar for each client, with its classes stacked from the left."""
    clients = np.arange(len(counts))
    starts = np.cumsum(counts, axis=1) - counts
    for number, color in zip(range(counts.shape[1]), colors, strict=False):
        axis.barh(clients, counts[:, number], 0.84, starts[:, number], color=color)
    axis.set_xlim(0, 1.03 * counts.sum(1).max())
    axis.set_ylim(len(counts) - 0.4, -0.6)
    axis.set_ylabel("client")
    axis.set_xlabel(unit)
    if names:
        axis.set_yticks(clients, _labels(names, len(counts)), parse_math=False)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    axis.spines[["top", "right"]].set_visible(False)


def _heat_map(axis: Axes, counts: Counts, unit: str, names: Sequence[str]) -> None:
    """Draw clients from left to right, with a line for each class. Darker is more.

    Up to `MOST_NAMES` classes have their names, if they have any.
    """
    # The square root of the counts, so that a few samples are visible.
    image = axis.imshow(
        counts.T, aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0), interpolation="nearest"
    )
    axis.set_xlabel("client")
    axis.set_ylabel("class")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    classes = counts.shape[1]
    if names and classes <= MOST_NAMES:
        axis.set_yticks(range(classes), _labels(names, classes), parse_math=False)
    bar = axis.figure.colorbar(image, ax=axis, format=FuncFormatter(_short))
    bar.set_label(unit)


def _name_classes(
    figure: Figure, axes: list[Axes], colors: Sequence[str], names: Sequence[str]
) -> None:
    """Add a legend of the classes' colors, or a color scale if there are many classes."""
    if len(colors) > MOST_NAMES:
        scale = ScalarMappable(cmap=ListedColormap(list(colors)))
        scale.set_clim(-0.5, len(colors) - 0.5)
        bar = figure.colorbar(scale, ax=axes, location="bottom", fraction=0.03, aspect=60)
        bar.set_label("class")
        return
    patches = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    inches = (figure.get_figwidth() - 0.4) * layout.SMALL / LEGEND_FONT
    short = max(map(len, names)) <= SHORT
    most = MOST_SHORT if short else layout.legend_columns(names, inches)
    columns = -(-len(patches) // -(-len(patches) // most))
    by_row = [patches[start : start + columns] for start in range(0, len(patches), columns)]
    down = [patch for column in zip_longest(*by_row) for patch in column if patch]
    legend = figure.legend(
        handles=down,  # a legend fills its columns first
        loc="outside lower center",
        ncols=columns,
        title="class",
        fontsize=LEGEND_FONT,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colors(classes: int) -> list[str]:
    if classes > MOST_NAMES:
        return [to_hex(colormaps["turbo"](i / (classes - 1))) for i in range(classes)]
    lighter = [_lighter(color) for color in PALETTE]
    return [*PALETTE, *lighter][:classes]


def _lighter(color: str) -> str:
    red, green, blue = (0.45 * part + 0.55 for part in to_rgb(color))
    return to_hex((red, green, blue))


def _title(held: Holdings, among: Sequence[Holdings]) -> str:
    """Return the fields in which a panel differs from the others, and its α."""
    config, varies = held.config, _varying(among)
    parts = [str(getattr(config, name)) for name in ("dataset", "partition") if name in varies]
    if config.alpha is not None:
        parts.append(f"α = {value_text(config.alpha)}")
    if config.shards_per_client is not None:
        parts.append(f"{config.shards_per_client} shards each")
    if config.min_samples is not None and "min_samples" in varies:
        parts.append(f"at least {config.min_samples} each")
    if "clients" in varies:
        parts.append(f"{len(held.counts)} clients")
    if "seed" in varies:
        parts.append(f"seed {config.seed}")
    return ", ".join(parts)


def _heading(among: Sequence[Holdings]) -> str:
    """Return the fields that all panels share."""
    first, varies = among[0], _varying(among)
    config = first.config
    shared = {
        "dataset": config.dataset,
        "partition": config.partition,
        "clients": f"{len(first.counts)} clients",
        "seed": f"seed {config.seed}",
    }
    return " · ".join(str(text) for name, text in shared.items() if name not in varies)


def _varying(among: Sequence[Holdings]) -> set[str]:
    """Return the fields in which the panels differ. "clients" is the number of clients."""
    names = ("dataset", "partition", "min_samples", "seed")
    values = {name: {getattr(h.config, name) for h in among} - {None} for name in names}
    varying = {name for name, distinct in values.items() if len(distinct) > 1}
    return varying | ({"clients"} if len({len(h.counts) for h in among}) > 1 else set())


def _short(value: float, _position: int | None = None) -> str:
    """Return a number as short text, such as "500", "20k" or "1.5M"."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (unit == "M" and abs(value) >= size):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
