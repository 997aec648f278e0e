"""Files of initial weights: checks before a plan and before an attempt."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsweep.errors import (
    DataMissing,
    MachineError,
    PlanError,
)
from fedsweep.plans import SweepSpec, TrainConfig, Trials, pinned_by
from fedsweep.store import stops


def weights_of(need: Mapping[str, Any]) -> stops.Lack:
    """Return the fields that name a trial's initial weights."""
    names = ("pretrained", "pretrained_hash")
    return tuple((name, need.get(name)) for name in names)


def missing_weights(need: Mapping[str, Any], root: Path | None) -> DataMissing | None:
    """Return a refusal if a trial's initial weights are not on this machine, None otherwise.

    The first trial checks the content.
    """
    from trainers.weight_files import WeightsMissing, locate

    if (name := need.get("pretrained")) is None:
        return None
    try:
        locate(name, root)
    except WeightsMissing as error:
        return DataMissing(str(error), weights_of(need))
    return None


def pin_weights(sweep: SweepSpec, root: Path | None) -> SweepSpec:
    """Return the sweep with the content of its initial weights in its trials' identity.

    A file whose hash the plan gives need not be on this machine.

    Raises:
        PlanError: a file is missing, or holds no weights.

    """
    from trainers.data.errors import BadData, MachineLimit
    from trainers.weight_files import content_hash

    digits = functools.cache(content_hash)

    def update(config: TrainConfig) -> Mapping[str, str]:
        if config.pretrained is None or config.pretrained_hash is not None:
            return {}
        return {"pretrained_hash": digits(config.pretrained, root)}

    trials = Trials.of(sweep.trials)
    configs = [*trials.distinct("pretrained", "pretrained_hash")]
    configs += [arm.config for arm in sweep.arms]
    try:
        return pinned_by(sweep, update) if any(map(update, configs)) else sweep
    except MachineLimit as error:
        raise MachineError(str(error)) from error
    except BadData as error:
        raise PlanError(str(error)) from error
