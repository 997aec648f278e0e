"""Types of the rows that are read from the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


Curves = Mapping[str, Mapping[int, float]]
"""A measure by trial and round."""
