"""Plan, run and read sweeps of federated-learning trials.

The functions below are the Python interface: see `fedsweep.interface`. They are imported when they
are first used, because a command needs only some of their code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsweep.interface import (
        Planned,
        Report,
        cells,
        curves,
        plan,
        report,
        results,
        train,
        work,
    )

__version__ = "0.1.0"

__all__ = [
    "Planned",
    "Report",
    "cells",
    "curves",
    "plan",
    "report",
    "results",
    "train",
    "work",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedsweep import interface

    return getattr(interface, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
