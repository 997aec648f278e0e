"""The styles of arms: a reader can tell any two arms of a figure apart."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from fedsweep.appearance import FIGURE_COLORS, arm_styles
from fedsweep.reports.direct_labels import ink
from fedsweep.reports.panels import DASHES, MARKERS, marker_of
from tests.unit.colors import Lab, ciede2000, lab
from trainers.config import NORMALIZERS

ELEVEN = ["fixbn"] * 11
"""T* = 0, 10, …, 100 %."""

FAR, FAR_FOR_DEUTERANOPES = 7.0, 5.0
"""The least CIEDE2000 between neighbors of eleven T*, about three and two just noticeable ones."""


def seen(color: str) -> tuple[Lab, Lab]:
    """Return a color as people and as deuteranopes see it."""
    return lab(color), lab(color, deuteranope=True)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_color_difference_is_that_of_its_published_pairs(
    one: Lab, other: Lab, difference: float
) -> None:
    """The pairs are those of Sharma, Wu and Dalal."""
    assert ciede2000(one, other) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize(
    ("ground", "far", "far_for_deuteranopes"),
    [
        ("color", FAR, FAR_FOR_DEUTERANOPES),
        ("light", FAR, FAR_FOR_DEUTERANOPES),
        ("dark", 5.4, 3.2),  # dark colors cannot be seen there, so the ramp is shorter
    ],
)
def test_eleven_freeze_rounds_differ_and_read_as_an_order(
    ground: str, far: float, far_for_deuteranopes: float
) -> None:
    """Each is darker than the one before, and differs more from those farther away."""
    colors = [seen(getattr(style, ground)) for style in arm_styles(ELEVEN)]
    for sight, least in ((0, far), (1, far_for_deuteranopes)):
        labs = [color[sight] for color in colors]
        assert min(ciede2000(a, b) for a, b in pairwise(labs)) >= least
        lights = [light for light, _, _ in labs]
        assert lights == sorted(lights, reverse=True)
        assert min(a - b for a, b in pairwise(lights)) >= 2.5
        for a, b, c in zip(labs, labs[1:], labs[2:], strict=False):
            assert ciede2000(a, c) > max(ciede2000(a, b), ciede2000(b, c))


def test_freeze_rounds_differ_from_the_usual_normalizers() -> None:
    """Deuteranopes see LN's pink as a blue, so its marker and dash must tell it apart."""
    frozen = [seen(style.color) for style in arm_styles(ELEVEN)]
    for name, least in (("bn", 40), ("gn", 20), ("in", 40), ("none", 15), ("ln", 12)):
        normal, deuteranope = seen(FIGURE_COLORS[name])
        assert min(ciede2000(normal, one) for one, _ in frozen) >= least
        assert min(ciede2000(deuteranope, one) for _, one in frozen) >= least * 0.8


@pytest.mark.parametrize("foreign", [(), ("a:one", "b:two")])
def test_any_two_arms_of_a_figure_have_different_markers(foreign: tuple[str, ...]) -> None:
    """So a gray print is readable. All our normalizers, eleven T* and two others are in it."""
    arms = ["bn", *ELEVEN, *(n for n in NORMALIZERS if n not in ("bn", "fixbn")), *foreign]
    styles = arm_styles(arms)
    assert len({(style.marker, style.is_filled) for style in styles}) == len(arms)
    assert all(style.marker in MARKERS and style.dash in DASHES for style in styles)
    drawn = [(marker_of(s)["marker"], marker_of(s)["markerfacecolor"] == "white") for s in styles]
    assert len(set(drawn)) == len(arms)


def test_settings_of_one_normalizer_differ_in_marker_and_dash() -> None:
    """They have one color. The first setting has the normalizer's own marker."""
    styles = arm_styles(["gn", "gn", "gn", "ln"])
    assert styles[3].marker == arm_styles(["ln"])[0].marker
    assert styles[0].marker == arm_styles(["gn"])[0].marker
    for one, other in combinations(styles[:3], 2):
        assert one.color == other.color
        assert one.marker != other.marker
        assert one.dash != other.dash


def test_names_at_lines_can_be_read_on_white() -> None:
    """Light colors are darkened to a contrast of 4.5. Others stay."""
    assert ink("#204FC6") == "#204fc6"
    for style in arm_styles([*ELEVEN, *FIGURE_COLORS]):
        light = ((lab(ink(style.color))[0] + 16) / 116) ** 3
        assert 1.05 / (light + 0.05) >= 4.49
