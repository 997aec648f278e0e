"""The figure of the partitions of a sweep."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from fedsweep.errors import PlanError, RequestError
from fedsweep.plans import SweepSpec, TrainConfig, TrialSpec
from fedsweep.reports import partition_figure
from tests.unit.reports.figures import check, config, held


def sweep(*configs: TrainConfig) -> SweepSpec:
    return SweepSpec("s", "", tuple(map(TrialSpec.of, configs)))


def panels(figure: Figure) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_title()]


def test_partitions_differ_only_in_the_fields_that_determine_them() -> None:
    """Each is returned at its lowest seed. A centralized trial has no partition."""
    configs = partition_figure.distinct(
        sweep(
            config(alpha=0.5, seed=3),
            config(alpha=0.5, seed=1, lr=0.5),
            config(alpha=0.1, normalizer="gn"),
            config(alpha=0.1, clients=5),
            config(partition="shards"),
            config(centralized=True),
        )
    )
    partitions = [(c.partition, c.alpha, c.clients, c.seed) for c in configs]
    assert partitions == [
        ("dirichlet", 0.1, 3, 0),
        ("dirichlet", 0.1, 5, 0),
        ("dirichlet", 0.5, 3, 1),
        ("shards", None, 3, 0),
    ]
    with pytest.raises(PlanError, match="every trial of s is centralized"):
        partition_figure.distinct(sweep(config(centralized=True)))


def test_every_client_is_a_bar_of_its_samples_stacked_by_class() -> None:
    """The bars of three clients and two classes are checked by hand."""
    figure = partition_figure.figure([held(3, 2)])
    (axis,) = panels(figure)
    bars = [(b.get_x(), b.get_width(), round(b.get_y() + b.get_height() / 2)) for b in axis.patches]
    assert bars == [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 1, 0), (1, 2, 1), (2, 3, 2)]
    assert axis.get_title() == "α = 0.1"
    assert figure.get_suptitle() == "digits · dirichlet · 3 clients · seed 0"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1"]
    (ten,) = partition_figure.figure([held(3, 10)]).legends
    assert ten._ncols == 10


def test_names_of_classes_and_of_natural_clients_are_shown() -> None:
    """A long name is cut, a dollar sign is no formula. Panels with other classes have numbers."""
    named = replace(
        held(3, 2), classes=("paw", "the $tusk$ of an elephant"), clients=("anna", "ben", "$x$")
    )
    figure = partition_figure.figure([named])
    check(figure)
    (axis,) = panels(figure)
    assert [text.get_text() for text in axis.get_yticklabels()] == ["anna", "ben", "$x$"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["paw", "the $tusk$ of a…"]
    figure = partition_figure.figure([named, replace(held(3, 2), classes=("ear", "paw"))])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1"]
    for more in ({"classes": ("paw",)}, {"clients": ("anna",)}):
        figure = partition_figure.figure([replace(named, **more)])
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        labels = [text.get_text() for text in panels(figure)[0].get_yticklabels()]
        assert ("0" in texts) is ("classes" in more)
        assert ("0" in labels) is ("clients" in more)
    many = replace(held(4, 20), classes=tuple(f"a long name {i}" for i in range(20)))
    check(partition_figure.figure([many]))


def test_names_that_would_be_equal_or_boxes_have_their_numbers() -> None:
    """The first names differ after the cut; the font has no letters for the last one."""
    names = ("lung adenocarcinoma", "lung adenocarcinoid", "line\nbreak", "\u732b")
    figure = partition_figure.figure([replace(held(2, 4), classes=names)])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["0 lung adenocar…", "1 lung adenocar…", "3", "line break"]


def test_many_clients_are_a_heat_map_and_many_classes_a_scale() -> None:
    """41 clients have no bars, and 21 classes have no names."""
    figure = partition_figure.figure([held(41, 10)])
    (axis,) = panels(figure)
    assert axis.images[0].get_array().shape == (10, 41)
    assert not figure.legends
    names = tuple(f"the name of class {i}" for i in range(20))
    figure = partition_figure.figure([replace(held(41, 20), classes=names)])
    check(figure)
    (axis,) = panels(figure)
    assert [text.get_text() for text in axis.get_yticklabels()][:2] == [
        "0 the name of c…",
        "1 the name of c…",
    ]
    figure = partition_figure.figure([held(40, 21)])
    assert not figure.legends
    assert any(axis.get_xlabel() == "class" for axis in figure.axes)


def test_panels_name_the_fields_that_vary_and_the_heading_those_that_do_not() -> None:
    """Partition, clients and seed are in the titles only if they vary."""
    shown = [held(3, 2), held(5, 2, alpha=1.0, seed=2), held(4, 2, partition="shards")]
    figure = partition_figure.figure(shown)
    assert [axis.get_title() for axis in panels(figure)] == [
        "dirichlet, α = 0.1, 3 clients, seed 0",
        "dirichlet, α = 1, 5 clients, seed 2",
        "shards, 2 shards each, 4 clients, seed 0",
    ]
    assert figure.get_suptitle() == "digits"


def test_a_natural_partition_shows_pixels_and_its_number_of_clients() -> None:
    """The number of clients is not in the configuration."""
    scenes = {"dataset": "camvid", "model": "deeplabv3plus", "partition": "natural"}
    figure = partition_figure.figure([held(4, 11, "pixels", **scenes)])
    (axis,) = [axis for axis in figure.axes if axis.get_xlabel() == "training pixels"]
    assert figure.get_suptitle() == "camvid · natural · 4 clients · seed 0"
    assert axis.get_ylabel() == "client"


@pytest.mark.parametrize(
    ("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_suffix_of_the_file_gives_its_format(
    suffix: str, begins: bytes, tmp_path: Path
) -> None:
    """The figure has a white background."""
    path = tmp_path / f"figure.{suffix}"
    with partition_figure.drawn([held(3, 2)], path):
        assert not path.exists()
    assert path.read_bytes().startswith(begins)
    if suffix == "svg":
        root = ET.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert re.search("fill: #ffffff", path.read_text())


def test_a_figure_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The message says to name another file."""
    refused = pytest.raises(RequestError, match="cannot be written to .* name another file")
    with refused, partition_figure.drawn([held(3, 2)], tmp_path / "nowhere" / "x.png"):
        pass


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (5000, "5000"), (20_000, "20k"), (1.5e6, "1.5M"), (2e7, "20M")]
)
def test_large_numbers_are_short(value: float, text: str) -> None:
    """So the ticks of pixels do not overlap."""
    assert partition_figure._short(value) == text
