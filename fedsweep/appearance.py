"""The appearance of normalizers, the same in tables, in figures and on pages: order and color."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

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


def normalizer_place(name: str) -> int:
    """Return the position of a normalizer among ours; those of other packages come after them."""
    return _PLACES.get(name, len(_PLACES))


def central_twin(name: str) -> str:
    """Return the normalizer that this one is equal to if there is only one client."""
    return (_OWN[name].central_twin or name) if name in _OWN else name


def page_colors(normalizers: Sequence[str]) -> list[dict[str, str]]:
    """Return the color of each of a page's lines on a light and on a dark ground.

    `normalizers` are those of the lines, in order. A color that depends on T* deepens from line to
    line. Normalizers of other packages look like "none".
    """
    counts = {name: normalizers.count(name) for name in normalizers}
    seen = dict.fromkeys(counts, 0)
    colors = []
    for name in normalizers:
        own = _OWN.get(name, _OWN["none"]).colors
        depth = seen[name] / (counts[name] - 1) if counts[name] > 1 else 0.5
        seen[name] += 1
        colors.append({"light": _shade(own.light, depth), "dark": _shade(own.dark, depth)})
    return colors


def _shade(shades: Sequence[str], depth: float) -> str:
    """Return the nearest of the shades at a depth of 0 to 1."""
    return shades[floor(depth * (len(shades) - 1) + 0.5)]
