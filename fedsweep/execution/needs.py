"""The packages, memory and data that open trials need and this machine lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsweep.errors import (
    MachineLacks,
    PackageMissing,
)
from fedsweep.store import stops

if TYPE_CHECKING:
    pass
from fedsweep.execution.data import data_of, missing_data
from fedsweep.execution.device import too_small
from fedsweep.execution.packages import missing_module, missing_package


def lacking(
    needs: Iterable[Mapping[str, Any]], root: Path | None, device: str
) -> list[MachineLacks]:
    """Return what this machine lacks of the packages, memory and data that trials need, each once.

    A need has the fields `queue.NEEDS`. The content of files is left to the first trial.
    """
    looks: dict[stops.Lack, Callable[[], MachineLacks | None]] = {}
    for need in needs:
        looks[("model", need["model"]),] = partial(_missing_for_model, need, device)
        looks[("normalizer", need["normalizer"]),] = partial(missing_package, need)
        looks[data_of(need)] = partial(missing_data, need, root)
    return [missing for look in looks.values() if (missing := look()) is not None]


def _missing_for_model(need: Mapping[str, Any], device: str) -> MachineLacks | None:
    model = need["model"]
    if (said := missing_module(model)) is not None:
        return PackageMissing(said, (("model", model),))
    return too_small(model, device)
