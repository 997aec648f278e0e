"""One trial: its configuration and its ids."""

from __future__ import annotations

from dataclasses import dataclass

from fedsweep.fields import config_columns
from fedsweep.plans.identity import content_hash, trunk_of
from trainers.config import TrainConfig
from trainers.identity import OUTSIDE_IDENTITY, RECIPE, TINY_ALPHA, canonical, recipe


@dataclass(frozen=True)
class TrialSpec:
    """One trial to run. Equal configurations have equal ids on every machine."""

    trial_id: str
    cell_id: str
    """The id of the configuration without its seed."""
    config: TrainConfig
    trunk: str | None = None
    """The id of the trunk: the BN rounds that bn and fixbn trials share if they differ only in T*.
    They share the rounds before the earlier freeze round. None if the trial shares nothing.
    """

    @classmethod
    def of(cls, config: TrainConfig) -> TrialSpec:
        """Return the trial of a configuration, with its ids."""
        identity = canonical(config)
        cell = {key: value for key, value in identity.items() if key != "seed"}
        trunk = trunk_of(config, identity)
        return cls(content_hash(identity), content_hash(cell), config, trunk)


def check_recipe(trial_id: str, config: TrainConfig) -> None:
    """Refuse to train a stored trial whose id comes from an earlier recipe.

    Raises:
        ValueError: the current code would compute other numbers under this id.

    """
    if recipe(config) != RECIPE and TrialSpec.of(config).trial_id != trial_id:
        raise ValueError(
            f"trial {trial_id} was planned by a release that dealt samples wrongly at "
            f"alpha < {TINY_ALPHA:g}: run its plan again, which makes a new trial"
        )


def more_measured(one: TrainConfig, other: TrainConfig) -> TrainConfig:
    """Return a trial that measures and keeps everything that either of two spellings asks for."""
    flags = [name for name in OUTSIDE_IDENTITY if config_columns()[name] is bool]
    more = {name: getattr(one, name) or getattr(other, name) for name in flags}
    for name in ("evaluate_every", "snapshot_every"):
        intervals = [c for c in (getattr(one, name), getattr(other, name)) if c is not None]
        more[name] = min(intervals, default=None)
    return one.model_copy(update=more)
