"""A package with a normalizer that crashes its process."""

from __future__ import annotations

from pathlib import Path

FRAGILE = """
import logging, os, warnings
from pathlib import Path
from torch import nn
from trainers.normalizers import Normalizer

class Layer(nn.Identity):
    def forward(self, x):
        warnings.warn("this layer does nothing")
        marker = Path(os.environ["FRAGILE_MARKER"])
        if not marker.exists():
            marker.touch()
            os.write(2, b"out of paper\\n")
            os.abort()
        return x

FRAGILE = Normalizer(lambda channels, config: Layer())
"""
"""A normalizer of another package. Its first batch aborts the process."""


def install(place: Path) -> None:
    """Install the package as pip would."""
    about = place / "fragile-1.5.dist-info"
    about.mkdir(parents=True)
    (place / "fragile.py").write_text(FRAGILE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text("[fedsweep.normalizers]\nfragile = fragile:FRAGILE\n")
