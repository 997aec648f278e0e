"""The packages, memory and data that open trials need and this machine lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedsweep.errors import (
    MachineLacks,
    PackageMissing,
)
from fedsweep.execution.data import data_of, missing_data
from fedsweep.execution.device import too_small
from fedsweep.execution.packages import missing_dataset, missing_module, missing_package
from fedsweep.store import stops


def lacking(
    needs: Iterable[Mapping[str, Any]], root: Path | None, device: str
) -> list[MachineLacks]:
    """Return the packages, memory and data that trials need and this machine lacks, each once.

    A need is a row of `queue.needs`. The content of files is checked by the first trial.
    """
    checks: dict[stops.Lack, Callable[[], MachineLacks | None]] = {}
    for need in needs:
        checks[("model", need["model"]),] = partial(_missing_for_model, need, device)
        checks[("normalizer", need["normalizer"]),] = partial(missing_package, need)
        checks[("dataset", need["dataset"]),] = partial(_missing_for_data, need)
        checks[data_of(need)] = partial(missing_data, need, root)
    return [missing for check in checks.values() if (missing := check()) is not None]


def _missing_for_model(need: Mapping[str, Any], device: str) -> MachineLacks | None:
    model = need["model"]
    if (problem := missing_module(model)) is not None:
        return PackageMissing(problem, (("model", model),))
    return too_small(model, device)


def _missing_for_data(need: Mapping[str, Any]) -> PackageMissing | None:
    dataset = need["dataset"]
    if (problem := missing_dataset(dataset)) is not None:
        return PackageMissing(problem, (("dataset", dataset),))
    return None
