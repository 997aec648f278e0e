"""What determines one FedAvg trial: every field, its unit, its default and its check.

Imports no torch, so that planning a sweep stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RECIPE = 1
"""Raised whenever a change of the code changes the numbers of an unchanged configuration."""

TRAINING_SAMPLES = {"digits": 1437, "cifar10": 50_000}
"""Training samples of the data sets whose content never changes; others are counted on disk."""


def _integral(value: object) -> object:
    """Let 20.0 pass for 20 (a plan file may write either), and nothing else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unsigned_zero(value: float) -> float:
    """-0.0 is 0.0: one value, one identity."""
    return value + 0.0


LARGEST = 2**63 - 1
"""What a database's integer holds."""

Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=LARGEST)]
Index = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0), AfterValidator(_unsigned_zero)]

Dirichlets = ("dirichlet",)


class TrainConfig(BaseModel):
    """One trial, fully determined.

    A field that the others make meaningless is None (`alpha` without a Dirichlet partition), so
    that two spellings of one trial are equal. Defaults are ours where no paper fixes them, and a
    released default never changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: Literal["digits", "cifar10", "imagefolder"]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    """Content hash of an image folder; `plan` takes it where the folder is at hand."""
    image_size: Count | None = 32
    """Side in pixels to which the pictures of an image folder are resized."""
    augment: bool | None = True
    """Random crop (zero padding of an eighth of the side) and horizontal flip, of training
    batches; digits are never augmented."""

    model: Literal["cnn", "resnet20"]
    normalizer: Literal["bn", "gn", "fixbn"]
    gn_groups: Count | None = 2
    """Groups of GN. Hsieh et al. 2020 take 2."""
    freeze_round: Index | None = None
    """T*, rounds: fixbn explores in rounds 1..T* and is frozen afterwards."""
    freeze: Literal["statistics", "layer"] | None = "statistics"

    partition: Literal["iid", "dirichlet", "shards"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Concentration of the Dirichlet partitions; small is non-IID."""
    shards_per_client: Count | None = 2
    """McMahan et al. 2017 take 2."""
    clients: Count
    """M, registered clients."""
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """C, share of the clients drawn each round."""
    validation: Annotated[NotNegative, Field(lt=1)] = 0.0
    """Share of each client's training samples held back, keyed by the seed."""

    rounds: Count
    """T, communication rounds."""
    local_steps: Count
    """E, SGD steps a client takes in a round."""
    batch_size: Count
    lr: Annotated[float, Field(gt=0)]
    clip_norm: NotNegative = 10.0
    """Bound on the norm of each local gradient; 0 turns it off."""
    momentum: Literal["none", "reset"] = "reset"
    momentum_factor: Annotated[NotNegative, Field(lt=1)] | None = 0.9
    weight_decay: NotNegative = 0.0
    decay_norm: bool | None = True
    """Whether the normalisers' scale and shift decay too."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """bfloat16 is autocast over float32 weights, statistics and loss."""

    seed: Index = 0
    evaluate_every: Count = 1
    """Rounds between evaluations; the last round is always evaluated."""

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        chosen = {name: info.default for name, info in cls.model_fields.items()} | dict(given)
        kept = dict(given)
        for name, used in USED_WHEN.items():
            if not used(chosen):
                kept[name] = None
        return kept

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        values = self.__dict__
        for name, used in USED_WHEN.items():
            if values[name] is None and name != "fingerprint" and used(values):
                raise ValueError(_MISSING.get(name, f"{name} needs a value"))
        if self.freeze_round is not None and self.freeze_round > self.rounds:
            raise ValueError(
                f"freeze_round = {self.freeze_round} lies after the last round "
                f"(rounds = {self.rounds}): choose 0 to {self.rounds}"
            )
        if self.model == "cnn" and self.image_size is not None and self.image_size < 4:
            raise ValueError("image_size must be 4 or more for cnn, which halves it twice")
        if self.dataset in TRAINING_SAMPLES:
            check_sizes(self, TRAINING_SAMPLES[self.dataset])
        if self.gn_groups is not None:
            widths = CHANNELS[self.model]
            if any(width % self.gn_groups for width in widths):
                raise ValueError(
                    f"gn_groups = {self.gn_groups} does not divide the channels of "
                    f"{self.model} ({', '.join(map(str, widths))}): choose a divisor"
                )
        return self

    @property
    def cohort(self) -> int:
        """Clients drawn each round: max(1, floor(C*M + 1/2))."""
        return max(1, share(self.participation, self.clients))

    def frozen(self, round: int) -> bool:
        """Whether the statistics are constants in this round (counted from 1)."""
        return self.freeze_round is not None and round > self.freeze_round


CHANNELS = {"cnn": (32, 64), "resnet20": (16, 32, 64)}
"""Channels that a normaliser meets in each model."""

STATE_ELEMENTS = {"cnn": 67_000, "resnet20": 274_000}
"""Elements of a model's state, about: to tell a plan's disk without building the model."""

USED_WHEN: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "fingerprint": lambda c: c["dataset"] == "imagefolder",
    "image_size": lambda c: c["dataset"] == "imagefolder",
    "augment": lambda c: c["dataset"] != "digits",
    "gn_groups": lambda c: c["normalizer"] == "gn",
    "freeze_round": lambda c: c["normalizer"] == "fixbn",
    "freeze": lambda c: c["normalizer"] == "fixbn",
    "alpha": lambda c: c["partition"] in Dirichlets,
    "shards_per_client": lambda c: c["partition"] == "shards",
    "momentum_factor": lambda c: c["momentum"] != "none",
    "decay_norm": lambda c: c["weight_decay"] != 0,
}
"""When a field has a meaning; elsewhere it is None and outside the identity."""

_MISSING = {
    "freeze_round": 'fixbn needs a freeze_round: a round (64) or a share of the rounds ("50%")',
    "alpha": "a Dirichlet partition needs an alpha, for example alpha = 0.1",
}

OUTSIDE_IDENTITY = frozenset({"evaluate_every"})
"""Fields that change what is measured, never what is trained. (A loss on the test set that is not
finite fails a trial in the round that measures it; the weights of such a trial are finite.)"""


def canonical(config: TrainConfig) -> dict[str, Any]:
    """The identity of a trial: its seed, the fields used and not at their default, the recipe."""
    fields = type(config).model_fields
    identity = {
        name: value
        for name, value in config.model_dump().items()
        if name == "seed"
        or (name not in OUTSIDE_IDENTITY and value is not None and value != fields[name].default)
    }
    return identity | {"recipe": RECIPE}


def share(part: float | Decimal, whole: int) -> int:
    """floor(part * whole + 1/2), with `part` read as the decimal that was written."""
    return math.floor(Decimal(str(part)) * whole + Decimal("0.5"))


def check_sizes(config: TrainConfig, samples: int) -> None:
    """Refuse a partition that cannot give every client a training sample.

    Raises:
        ValueError: more clients, or more shards, than samples.

    """
    pieces = config.clients * (config.shards_per_client or 1)
    if pieces > samples:
        what = "shards" if config.shards_per_client else "clients"
        raise ValueError(
            f"{pieces} {what} are more than the {samples} training samples of {config.dataset}: "
            f"lower clients{' or shards_per_client' if what == 'shards' else ''}"
        )
