"""A measured figure, with its runs and its target."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

N = 5
"""Default number of runs of a figure."""


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    target: str
    unit: str = ""
    values: list[float] = field(default_factory=list)
    missing: str = ""
    """The reason for a figure without values."""

    def cells(self) -> tuple[str, ...]:
        if not self.values:
            return (self.name, self.target, f"not measured: {self.missing}", "", "0")
        low, high = min(self.values), max(self.values)
        median = statistics.median(self.values)
        spread = f"{low:.4g} – {high:.4g}"
        return (self.name, self.target, f"{median:.4g} {self.unit}", spread, str(len(self.values)))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratios(ones: list[float], others: list[float]) -> list[float]:
    """Return the ratio of two measurements for each turn."""
    return [one / other for one, other in zip(ones, others, strict=True)]
