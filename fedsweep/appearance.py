"""The appearance of arms, the same in tables, in figures and on pages: order, color and marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from trainers.own_normalizers import OWN

_OWN = {own.name: own for own in OWN}
_PLACES = {name: position for position, name in enumerate(_OWN)}

FOREIGN = "#000000"
"""The color of other packages' normalizers in figures."""

FIGURE_COLORS = {
    name: own.colors.figure[0] for name, own in _OWN.items() if len(own.colors.figure) == 1
}
"""The color of each normalizer in figures, except of those whose color depends on T*."""

FREEZE_SHADES = _OWN["fixbn"].colors.figure
"""The colors in figures through which fixbn goes with T*."""

FREEZE_SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left"),
    *("x", "triangle-right", "star", "pentagon"),
)
"""The filled markers of fixbn by T*. Neighbors have shapes that are easy to tell apart."""

OPEN_SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "x", "pentagon"),
    *("triangle-left", "star", "triangle-right", "cross", "hexagon", "octagon", "hexagon2"),
)
"""The open markers of the other normalizers, in the order of the normalizers."""

DASHES = ("dash", "dashdot", "dot", "longdash")
"""The dashes of the other normalizers, in turn. Lines of fixbn are solid."""


@dataclass(frozen=True)
class ArmStyle:
    """The looks of one arm. The names of markers and dashes are those of Plotly."""

    color: str
    """The color in figures, on white."""
    light: str
    """The color on a light page."""
    dark: str
    """The color on a dark page."""
    marker: str
    is_filled: bool
    """True for fixbn. The marker of any other normalizer is open."""
    dash: str


def normalizer_place(name: str) -> int:
    """Return the position of a normalizer among ours; those of other packages come after them."""
    return _PLACES.get(name, len(_PLACES))


def central_twin(name: str) -> str:
    """Return the normalizer that this one is equal to if there is only one client."""
    return (_OWN[name].central_twin or name) if name in _OWN else name


def arm_styles(normalizers: Sequence[str]) -> list[ArmStyle]:
    """Return the style of each arm. `normalizers` are those of the arms, in their order.

    The arms of fixbn go through a ramp of colors in the order of T*. Up to 11 arms of fixbn and 14
    other arms have different markers. Normalizers of other packages are black in figures, and look
    like "none" on a page.
    """
    counts = {name: normalizers.count(name) for name in normalizers}
    seen = dict.fromkeys(counts, 0)
    styles = []
    for name, marker in zip(normalizers, _markers(normalizers), strict=True):
        own = _OWN.get(name, _OWN["none"]).colors
        depth = (seen[name] + 0.5) / counts[name]
        is_frozen = name in _OWN and name not in FIGURE_COLORS
        dash = DASHES[(normalizer_place(name) + seen[name]) % len(DASHES)]
        seen[name] += 1
        styles.append(
            ArmStyle(
                color=shade(own.figure, depth) if name in _OWN else FOREIGN,
                light=shade(own.light, depth),
                dark=shade(own.dark, depth),
                marker=marker,
                is_filled=is_frozen,
                dash="solid" if is_frozen else dash,
            )
        )
    return styles


def _markers(normalizers: Sequence[str]) -> Iterator[str]:
    """Yield the marker of each arm.

    The first arm of a normalizer of ours has the open shape of the normalizer. Its other arms and
    those of other packages have shapes that no normalizer of `normalizers` has.
    """
    own = dict(zip(FIGURE_COLORS, OPEN_SHAPES, strict=False))
    used = {own[name] for name in normalizers if name in own}
    free = [shape for shape in reversed(OPEN_SHAPES) if shape not in used]
    frozen, others = cycle(FREEZE_SHAPES), cycle(free or OPEN_SHAPES)
    seen: set[str] = set()
    for name in normalizers:
        if name in _OWN and name not in own:
            yield next(frozen)
        else:
            yield own[name] if name in own and name not in seen else next(others)
        seen.add(name)


def shade(shades: Sequence[str], depth: float) -> str:
    """Return the color at a depth of 0 to 1 of a ramp, between the two nearest of its colors."""
    place = depth * (len(shades) - 1)
    left = min(int(place), max(len(shades) - 2, 0))
    low, high = (_parts(color) for color in (shades[left], shades[min(left + 1, len(shades) - 1)]))
    mixed = (round(a + (b - a) * (place - left)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02X}" for part in mixed) if len(shades) > 1 else shades[0]


def _parts(color: str) -> tuple[int, ...]:
    """Return the red, green and blue of a color, from 0 to 255."""
    return tuple(int(color[start : start + 2], 16) for start in (1, 3, 5))
