"""The packages, memory and files that open trials need and this machine lacks."""

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
from fedsweep.execution.packages import missing_dataset, missing_package
from fedsweep.execution.weights import missing_weights, weights_of
from fedsweep.store import stops


def lacking(
    needs: Iterable[Mapping[str, Any]], root: Path | None, device: str
) -> list[MachineLacks]:
    """Return the packages, memory and files that trials need and this machine lacks, each once.

    A need is a row of `queue.needs`. The content of files is checked by the first trial.
    """
    checks: dict[stops.Lack, Callable[[], MachineLacks | None]] = {}
    for need in needs:
        parts = tuple((name, need[name]) for name in ("model", "normalizer", "algorithm", "code"))
        checks[parts] = partial(_missing_for_parts, need, device)
        checks[("dataset", need["dataset"]),] = partial(_missing_for_data, need)
        checks[data_of(need)] = partial(missing_data, need, root)
        checks[weights_of(need)] = partial(missing_weights, need, root)
    refusals: dict[stops.Lack | None, MachineLacks] = {}
    for check in checks.values():
        if (missing := check()) is not None:
            refusals.setdefault(missing.lack, missing)
    return list(refusals.values())


def _missing_for_parts(need: Mapping[str, Any], device: str) -> MachineLacks | None:
    return missing_package(need) or too_small(need["model"], device)


def _missing_for_data(need: Mapping[str, Any]) -> PackageMissing | None:
    dataset = need["dataset"]
    if (problem := missing_dataset(dataset)) is not None:
        return PackageMissing(problem, (("dataset", dataset),))
    return None
