"""A plan: its trials, arms and budget, as frozen values, and the plan file that they come from."""

from fedsweep.plans.arms import ArmSpec, SearchSpec
from fedsweep.plans.holdings import Holdings
from fedsweep.plans.identity import content_hash, fork_round
from fedsweep.plans.packed import Trials
from fedsweep.plans.read import read_document, read_plan
from fedsweep.plans.sweep import Budget, SweepSpec, pinned, pinned_by
from fedsweep.plans.trials import TrialSpec, check_recipe, more_measured
from fedsweep.plans.trunks import most_forks, own_rounds
from trainers.config import PINNED, TrainConfig
from trainers.identity import OUTSIDE_IDENTITY
from trainers.measurements import ClientScore, Round

__all__ = [
    "OUTSIDE_IDENTITY",
    "PINNED",
    "ArmSpec",
    "Budget",
    "ClientScore",
    "Holdings",
    "Round",
    "SearchSpec",
    "SweepSpec",
    "TrainConfig",
    "TrialSpec",
    "Trials",
    "check_recipe",
    "content_hash",
    "fork_round",
    "more_measured",
    "most_forks",
    "own_rounds",
    "pinned",
    "pinned_by",
    "read_document",
    "read_plan",
]
