"""Arms: the cells whose best freeze round T* a search looks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedsweep.fields import ARM_FIELDS
from fedsweep.plans.identity import content_hash
from fedsweep.plans.trials import TrialSpec
from trainers.config import LARGEST, TrainConfig
from trainers.identity import canonical


class Lattice(BaseModel):
    """The freeze rounds T* that a search may try, as rounds or as fractions of T ("25%")."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int | str = 0
    """The lowest T*, as a round or as a fraction of T."""
    high: int | str = "100%"
    """The highest T*, as a round or as a fraction of T."""
    step: int | str = "10%"
    """The distance of two T*, in rounds or as a fraction of T. A fraction of less than one round
    counts as one round."""


class SearchSpec(BaseModel):
    """The `[search]` section of a plan: how the best T* of each arm is found."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    freeze_round: Lattice = Lattice()
    """The T* that may be tried: a table with `low`, `high` and `step`."""
    probes_per_arm: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Maximum number of T* to try."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """The sampler of Optuna that proposes the next T*."""
    metric: Literal["validation_accuracy", "test_accuracy"] = "validation_accuracy"
    """The measure that chooses T*. `validation_accuracy` needs `validation` in the plan. The report
    notes a choice by `test_accuracy`."""
    rounds_per_seed: int | str | None = "366%"
    """Maximum number of rounds per seed of an arm, including its trunk, as rounds or as a fraction
    of T. The default is a third of a grid of eleven T*."""
    extra_seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    """Maximum number of seeds that are added to an arm if two T* cannot be told apart."""
    confirm_seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of new seeds on which the proposed T*, BN and GN are trained after the search. They
    measure the gain on seeds that did not choose T*."""
    prune: Literal["none", "median", "wilcoxon"] = "none"
    """The rule that cancels running trials of the search that cannot win. `median`: the mean of a
    T* is below the median of three or more finished ones. `wilcoxon`: a signed-rank test over the
    paired seeds finds it below the best one. No trial is cancelled in the first quarter of its
    rounds after T*."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the search's own random choices."""


@dataclass(frozen=True)
class ArmSpec:
    """A cell without its T*, and how its best T* is found."""

    arm_id: str
    config: TrainConfig
    """The configuration with T* = T and the first of the seeds."""
    seeds: tuple[int, ...]
    rivals: tuple[TrainConfig, ...]
    """The cells of BN and GN that the sweep compares it with. They get its added seeds too."""
    search: SearchSpec
    low: int
    high: int
    step: int
    """Rounds between two T* that may be tried."""
    rounds_per_seed: int | None
    shared: bool = True
    """True if its trials share their trunk."""

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        seeds: Sequence[int],
        search: SearchSpec,
        rivals: Sequence[TrainConfig] = (),
    ) -> ArmSpec:
        """Return the arm of a fixbn configuration.

        Raises:
            ValueError: the search's rounds do not fit the arm's.

        """
        whole = config.model_copy(update={"freeze_round": config.rounds, "seed": seeds[0]})
        lattice, rounds = search.freeze_round, config.rounds
        low, high, step = (
            _rounds_of(value, rounds, f"freeze_round.{name}")
            for name, value in (
                ("low", lattice.low),
                ("high", lattice.high),
                ("step", lattice.step),
            )
        )
        if not 0 <= low <= high <= rounds:
            raise ValueError(
                f"freeze_round from {low} to {high} does not lie in 0 to rounds = {rounds}"
            )
        if not _positive(lattice.step):
            raise ValueError(f"freeze_round.step = {json.dumps(lattice.step)} is not above 0")
        if (high - low) // max(step, 1) >= MOST_POINTS:
            raise ValueError(
                f"freeze_round from {low} to {high} in steps of {max(step, 1)} has more than "
                f"{MOST_POINTS:,} rounds to choose from: raise freeze_round.step"
            )
        if max(seeds) > LARGEST - search.extra_seeds - search.confirm_seeds:
            raise ValueError(
                f"seed = {max(seeds)} leaves no room for extra_seeds and confirm_seeds, which "
                "count up from it: choose a lower seed"
            )
        most = search.rounds_per_seed
        limit = None if most is None else _rounds_of(most, rounds, "rounds_per_seed")
        if limit is not None and limit < rounds:
            raise ValueError(
                f"rounds_per_seed = {limit} is less than one trial's rounds = {rounds}"
            )
        if search.metric == "validation_accuracy" and not config.validation:
            raise ValueError(
                "the search needs samples held back to choose by: set validation = 0.1 in "
                '[protocol], or metric = "test_accuracy", which the report will say'
            )
        return cls(
            arm_id=content_hash(arm_identity(config)),
            config=whole,
            seeds=tuple(seeds),
            rivals=tuple(rivals),
            search=search,
            low=low,
            high=high,
            step=max(step, 1),
            rounds_per_seed=limit,
        )

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the plan, and the seeds that the search may add. The added ones count up
        from the highest.
        """
        last, added = max(self.seeds), self.search.extra_seeds + self.search.confirm_seeds
        return [*self.seeds, *range(last + 1, last + 1 + added)]

    @property
    def points(self) -> range:
        """Every T* that may be tried, in ascending order."""
        return range(self.low, self.high + 1, self.step)

    def trial(self, freeze_round: int, seed: int) -> TrialSpec:
        """Return the arm's trial with this T* and seed."""
        update = {"freeze_round": freeze_round, "seed": seed}
        trial = TrialSpec.of(self.config.model_copy(update=update))
        return trial if self.shared else replace(trial, trunk=None)

    def rival_trials(self, seed: int) -> list[TrialSpec]:
        """Return the trials of BN and GN with this seed."""
        trials = [TrialSpec.of(c.model_copy(update={"seed": seed})) for c in self.rivals]
        return trials if self.shared else [replace(trial, trunk=None) for trial in trials]


def arm_identity(config: TrainConfig) -> dict[str, Any]:
    """Return the fields of a fixbn configuration that make its arm."""
    own = ("seed", "freeze_round")
    return {key: value for key, value in canonical(config).items() if key not in own}


def comparison_of(config: TrainConfig) -> str:
    """Return an id that is equal for configurations that differ only in normalizer, its settings
    and the seed.
    """
    own = ("seed", "normalizer", *ARM_FIELDS)
    return content_hash({k: v for k, v in canonical(config).items() if k not in own})


MOST_POINTS = 2000
"""Maximum number of T* that a search may choose from. The memory of its surrogate grows with the
square of it.
"""


def _positive(step: int | str) -> bool:
    """Return whether a step is above 0, in rounds or as a fraction of them."""
    return Decimal(step.strip().removesuffix("%") if isinstance(step, str) else step) > 0


def _rounds_of(value: int | str, rounds: int, name: str) -> int:
    """Return a number of rounds, given as such or as a fraction of T.

    Raises:
        ValueError: the value is neither, or is more than a database holds.

    """
    counted = value if isinstance(value, int) else _percentage_of(value, rounds, name)
    if counted > LARGEST:
        raise ValueError(f"{name} = {counted:,} is more than {LARGEST:,}: lower it")
    return counted


def _percentage_of(value: str, rounds: int, name: str) -> int:
    try:
        percent = Decimal(value.strip().removesuffix("%"))
    except InvalidOperation:
        percent = Decimal("NaN")
    if not value.strip().endswith("%") or not percent.is_finite() or not 0 <= percent <= 10**6:
        raise ValueError(f'{name} = {json.dumps(value)} is neither rounds (8) nor a share ("10%")')
    return int(percent / 100 * rounds + Decimal("0.5"))
