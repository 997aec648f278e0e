"""A sweep: a named plan with its trials, arms and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsweep.plans.arms import ArmSpec
from fedsweep.plans.packed import Trials
from fedsweep.plans.trials import TrialSpec
from trainers.config import (
    TrainConfig,
)


@dataclass(frozen=True)
class Budget:
    """The rounds and hours that a sweep may train in all. None sets no limit."""

    rounds: int | None = None
    """Rounds that the trials of the sweep may train in all."""
    hours: float | None = None
    """Hours of training that the trials of the sweep may take in all."""


@dataclass(frozen=True)
class SweepSpec:
    """A named plan: its text, and its trials in the order of the file, each once."""

    name: str
    text: str
    trials: Sequence[TrialSpec]
    budget: Budget | None = None
    arms: tuple[ArmSpec, ...] = ()
    """The arms whose best T* it searches for."""

    def __post_init__(self) -> None:
        """Pack the trials."""
        object.__setattr__(self, "trials", Trials.of(self.trials))

    def alone(self) -> SweepSpec:
        """Return the same sweep with trials that share no trunk."""
        return replace(
            self,
            trials=Trials.of(self.trials).alone(),
            arms=tuple(replace(arm, shared=False) for arm in self.arms),
        )


def pinned(sweep: SweepSpec, match: Mapping[str, Any], pins: Mapping[str, str]) -> SweepSpec:
    """Return the sweep with the content of files in the identity of the trials that read them.

    These are the trials whose fields `match`. A trial whose plan names the content keeps it.
    """

    def update(config: TrainConfig) -> Mapping[str, str]:
        matches = all(getattr(config, name) == value for name, value in match.items())
        is_open = matches and not any(getattr(config, name) for name in pins)
        return pins if is_open else {}

    return pinned_by(sweep, update)


def pinned_by(sweep: SweepSpec, update: Callable[[TrainConfig], Mapping[str, str]]) -> SweepSpec:
    """Return the sweep with fields of its trials' identity that the plan's machine has found.

    `update` returns the fields of a configuration that are new, by name.
    """

    def pin(trial: TrialSpec) -> TrialSpec:
        new = update(trial.config)
        return TrialSpec.of(trial.config.model_copy(update=new)) if new else trial

    def pinned_config(config: TrainConfig) -> TrainConfig:
        return config.model_copy(update=update(config))

    arms = tuple(
        replace(
            ArmSpec.of(
                pinned_config(arm.config),
                arm.seeds,
                arm.search,
                list(map(pinned_config, arm.rivals)),
            ),
            shared=arm.shared,
        )
        for arm in sweep.arms
    )
    return replace(sweep, trials=Trials(pin(trial) for trial in sweep.trials), arms=arms)
