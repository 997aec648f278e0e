"""Who holds what, as a figure: a panel for each partition of a sweep."""

from __future__ import annotations

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
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fedsweep.errors import PlanError, RequestError
from fedsweep.files import written
from fedsweep.plan import Holdings, SweepSpec, TrainConfig, Trials
from fedsweep.report import layout
from fedsweep.report.labels import sort_key, value_text

Counts = NDArray[np.int64]

MOST_PANELS = 12
MOST_BARS = 40
"""Clients that are told apart as bars; more become a heat map."""
MOST_NAMES = 20
"""Classes that a legend names; more are told by a scale."""
HEADING_FONT = 11.0
FIELDS = ("dataset", "partition", "alpha", "min_samples", "shards_per_client", "clients")
"""What tells partitions apart, beside the seed."""

PALETTE = (
    *("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE"),
    *("#AA3377", "#BBBBBB", "#EE7733", "#885533", "#332288"),
)
"""Colors of ten classes, most of them Tol's; twenty are these and lighter ones."""


def distinct(sweep: SweepSpec) -> list[TrainConfig]:
    """A configuration for each partition of a sweep, with the lowest seed that has it.

    Raises:
        PlanError: no trial has clients.

    """
    found: dict[tuple[object, ...], TrainConfig] = {}
    for config in Trials.of(sweep.trials).distinct("centralized", *FIELDS, "seed"):
        if not config.centralized:
            key = tuple(getattr(config, name) for name in FIELDS)
            if config.seed < found.setdefault(key, config).seed:
                found[key] = config
    if not found:
        raise PlanError(f"every trial of {sweep.name} is centralized: there is no partition")
    return [found[key] for key in sorted(found, key=sort_key)]


@contextmanager
def drawn(holdings: Sequence[Holdings], path: Path) -> Iterator[None]:
    """Draw the figure; it goes to the path when the block ends, in the format that its name says.

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
            f"{path} cannot be written to ({error.strerror or error}): name another place with "
            "--show-partition"
        ) from error


def figure(holdings: Sequence[Holdings]) -> Figure:
    """A panel for each partition: bars by client, or a heat map where there are many clients."""
    counts = [np.array(held.counts, dtype=np.int64) for held in holdings]
    colors = _colors(max(count.shape[1] for count in counts))
    columns = min(len(holdings), 3)
    rows = -(-len(holdings) // columns)
    size = _size(rows, columns, counts)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, held, count in zip(axes, holdings, counts, strict=False):
        unit = f"training {held.unit}"
        if len(count) > MOST_BARS:
            _heat_map(axis, count, unit)
        else:
            _bars(axis, count, colors, unit)
        title = layout.wrapped(_title(held, holdings), size[0] / columns - 1.0)
        axis.set_title(title, fontsize=layout.FONT, parse_math=False)
    for spare in axes[len(holdings) :]:
        spare.set_visible(False)
    if any(len(count) <= MOST_BARS for count in counts):
        _name_classes(figure, list(axes[: len(holdings)]), colors)
    heading = layout.wrapped(_heading(holdings), size[0] - 0.4, HEADING_FONT)
    figure.suptitle(heading, fontsize=HEADING_FONT, parse_math=False)
    return figure


def _size(rows: int, columns: int, counts: Sequence[Counts]) -> tuple[float, float]:
    """Inches. A bar needs the height of its client's number."""
    bars = max((len(count) for count in counts if len(count) <= MOST_BARS), default=0)
    return max(3.9 * columns, 6.0), rows * max(2.7, 1.0 + 0.16 * bars) + 1.1


def _bars(axis: Axes, counts: Counts, colors: Sequence[str], unit: str) -> None:
    """A bar for each client, its classes stacked from the left."""
    clients = np.arange(len(counts))
    starts = np.cumsum(counts, axis=1) - counts
    for number, color in zip(range(counts.shape[1]), colors, strict=False):
        axis.barh(clients, counts[:, number], 0.84, starts[:, number], color=color)
    axis.set_xlim(0, 1.03 * counts.sum(1).max())
    axis.set_ylim(len(counts) - 0.4, -0.6)
    axis.set_ylabel("client")
    axis.set_xlabel(unit)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    axis.spines[["top", "right"]].set_visible(False)


def _heat_map(axis: Axes, counts: Counts, unit: str) -> None:
    """Clients from left to right, a line for each class; darker is more."""
    # By the square root: a client's few samples of a class are not nothing.
    image = axis.imshow(
        counts.T, aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0), interpolation="nearest"
    )
    axis.set_xlabel("client")
    axis.set_ylabel("class")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(nbins=10, integer=True))
    bar = axis.figure.colorbar(image, ax=axis, format=FuncFormatter(_short))
    bar.set_label(unit)


def _name_classes(figure: Figure, axes: list[Axes], colors: Sequence[str]) -> None:
    """Their colors: one by one, or on a scale where they are many."""
    if len(colors) > MOST_NAMES:
        scale = ScalarMappable(cmap=ListedColormap(list(colors)))
        scale.set_clim(-0.5, len(colors) - 0.5)
        bar = figure.colorbar(scale, ax=axes, location="bottom", fraction=0.03, aspect=60)
        bar.set_label("class")
        return
    patches = [Patch(color=color, label=str(i)) for i, color in enumerate(colors)]
    half = len(patches) if len(patches) <= 12 else -(-len(patches) // 2)
    down = [p for pair in zip_longest(patches[:half], patches[half:]) for p in pair if p]
    figure.legend(
        handles=down,  # a legend fills its columns first
        loc="outside lower center",
        ncols=half,
        title="class",
        frameon=False,
        handlelength=1.0,
        columnspacing=1.2,
    )


def _colors(classes: int) -> list[str]:
    if classes > MOST_NAMES:
        return [to_hex(colormaps["turbo"](i / (classes - 1))) for i in range(classes)]
    lighter = [_lighter(color) for color in PALETTE]
    return [*PALETTE, *lighter][:classes]


def _lighter(color: str) -> str:
    red, green, blue = (0.45 * part + 0.55 for part in to_rgb(color))
    return to_hex((red, green, blue))


def _title(held: Holdings, among: Sequence[Holdings]) -> str:
    """What tells one panel from the others; its α in any case."""
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
    """What all panels share."""
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
    """The fields in which the panels differ; of the clients, their number."""
    names = ("dataset", "partition", "min_samples", "seed")
    values = {name: {getattr(h.config, name) for h in among} - {None} for name in names}
    varying = {name for name, found in values.items() if len(found) > 1}
    return varying | ({"clients"} if len({len(h.counts) for h in among}) > 1 else set())


def _short(value: float, _position: int | None = None) -> str:
    """500, 20k, 1.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (unit == "M" and abs(value) >= size):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
