"""The configuration of one FedAvg trial: every field, its unit, its default and its check.

This file imports no torch, so that planning a sweep stays fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from trainers import own_models
from trainers.facts import (
    DATASETS,
    HUGGING_FACE,
    NEVER_AUGMENTED,
    OTHER_NAMES,
    SEGMENTATION,
    TRAINING_SAMPLES,
    WITHOUT_CLIENTS,
    is_on_disk,
)
from trainers.own_algorithms import BY_NAME, KEYS
from trainers.own_normalizers import OWN, REPEATING
from trainers.registry import Registry, foreign_parts
from trainers.sizes import check_sizes, share

NORMALIZERS = tuple(own.name for own in OWN)
"""Our own normalizers. `trainers.normalizers` explains each."""


NORMALIZER = Registry("normalizer", "fedsweep.normalizers", NORMALIZERS)
"""All normalizers that are installed."""

ALGORITHMS = tuple(BY_NAME)
"""Our own algorithms. `trainers.algorithms` explains each."""

ALGORITHM = Registry("algorithm", "fedsweep.algorithms", ALGORITHMS)
"""All algorithms that are installed."""


MODELS = tuple(own.name for own in own_models.OWN)
"""Our own models. `trainers.models` explains each."""


MODEL = Registry("model", "fedsweep.models", MODELS, own_models.TIMM)
"""All models that are installed. Those of timm count as ours."""


IDENTIFIED = (MODEL, ALGORITHM)
"""The registries whose parts of other packages are identified by their code. A normalizer of
another package is identified by its name, and its package's version is part of the numerics.
"""


PINNED = frozenset({"fingerprint", "code", "pretrained_hash", "partition_fingerprint"})
"""Fields that `plan` sets from the files that it finds. They may be None in a trial that uses
them.
"""


DATASET = Registry("dataset", "fedsweep.datasets", DATASETS)
"""All data sets that are known, but those of the Hugging Face hub."""

REGISTRIES = (DATASET, MODEL, NORMALIZER, ALGORITHM)
"""All registries: other packages can add values to these keys."""


def _dataset(name: str) -> str:
    """Return the name of a data set that is known here."""
    if re.fullmatch(rf"{HUGGING_FACE}{_FILE}(/{_FILE})?", name):
        return name
    return DATASET.checked(OTHER_NAMES.get(name, name))


_FILE = r"[\w+-][\w .+-]{0,99}"
"""Pattern of the name of a file in the data folder. It excludes paths, and hidden files."""


def _named(*endings: str) -> AfterValidator:
    """Return the check of the name of a file in the data folder, with one of these endings."""

    def check(name: str) -> str:
        if not re.fullmatch(rf"{_FILE}({'|'.join(map(re.escape, endings))})", name):
            raise PydanticCustomError(
                "file_name",
                "It must be the plain name of a file in the data folder that ends in {endings}",
                {"endings": " or ".join(endings)},
            )
        return name

    return AfterValidator(check)


def _integral(value: object) -> object:
    """Accept 20.0 for 20, because a plan file may write either. Refuse other fractions."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unsigned_zero(value: float) -> float:
    """-0.0 is 0.0: one value, one identity."""
    return value + 0.0


LARGEST = 2**63 - 1
"""The largest integer that both databases can store."""


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=LARGEST)]


Index = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=LARGEST)]


NotNegative = Annotated[float, Field(ge=0), AfterValidator(_unsigned_zero)]


Positive = Annotated[float, Field(gt=0)]


Decay = Annotated[NotNegative, Field(lt=1)]
"""The factor of a running mean."""


Dirichlets = ("dirichlet", "dirichlet-class")


BY_CLIENT = ("natural", "file")
"""Partitions that name the client of each sample, so that their number is that of the clients."""


class TrainConfig(BaseModel):
    """The complete configuration of one trial.

    A field that has no meaning with the other values is None (`alpha` without a Dirichlet
    partition), so that two spellings of one trial are equal. Defaults are ours if no paper fixes
    them. A released default never changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: Annotated[str, AfterValidator(_dataset), Field(json_schema_extra=DATASET.tell)]
    """The data set, as `cifar10`. A local copy of a data set of the Hugging Face hub is
    `huggingface:NAME`. Other packages can add data sets."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    """Content hash of the files of a data set on disk. `plan` computes it if it has the files."""
    file: Annotated[str, _named(".npz", ".safetensors")] | None = None
    """The file of `arrays`, in the data folder: `NAME.npz` or `NAME.safetensors`."""
    clients_by: Literal["nothing", "folder", "csv", "lists"] | None = "nothing"
    """The clients of an image folder. `folder`: train/CLIENT/CLASS/, or CLIENT/train/CLASS/.
    `csv`: the columns file and client of clients.csv. `lists`: CLIENT_train.txt, CLIENT_test.txt,
    with the file of an image and the number of its class in each line."""
    image_size: Count | None = 32
    """Side to which images of an image folder, or of the Hugging Face hub, are resized."""
    image_height: Count | None = 256
    """Height to which road scenes are resized. The width keeps their aspect, to the nearest
    multiple of 16."""
    augment: bool | None = True
    """Random crop and horizontal flip of training batches. The crop pads an eighth of the side with
    zeros. Digits and characters are never cropped or flipped."""

    model: Annotated[str, AfterValidator(MODEL.checked), Field(json_schema_extra=MODEL.tell)]
    """The model, as `resnet20`. `timm:NAME` is a model of timm. Other packages can add models."""
    pretrained: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """File of initial weights (.safetensors) in the data folder, or its absolute path. Weights are
    taken by torch's names, under every normalizer. An output layer of another size starts with new
    weights. The trial's log lists weights that are not taken. A file that otherwise fits only in
    part is refused."""
    pretrained_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    """Content hash of that file. `plan` computes it."""
    code: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """Package, version and hash of the code of each part that is not ours, except normalizers.
    `plan` computes it."""
    normalizer: Annotated[
        str, AfterValidator(NORMALIZER.checked), Field(json_schema_extra=NORMALIZER.tell)
    ]
    """The normalizer, as `fixbn`. Other packages can add normalizers."""
    gn_groups: Count | None = 2
    """Groups of GN. Hsieh et al. 2020 take 2."""
    agc_clip: NotNegative | None = 1.28
    """Bound of the adaptive gradient clipping of `ws`. 1.28 is FedWon's value, as we recall it. 0
    turns it off."""
    freeze_round: Index | None = None
    """T*: fixbn explores in rounds 1 to T* and is frozen afterwards. A plan gives it as a round
    (64), as a fraction of `rounds` ("50%"), or as "auto", which sets `freeze_rule`. A fraction is
    rounded to the nearest round. If it is left out of a fixbn block, `[search]` looks for it."""
    freeze: Literal["statistics", "layer"] | None = "statistics"
    """The part of fixbn's layers that is constant after T*. `statistics`: the mean and variance.
    `layer`: scale and shift, too."""
    freeze_rule: Literal["given", "auto"] | None = "given"
    """The origin of T*. `given`: the plan gives it. `auto`: the trial freezes when its averaged
    statistics have settled. The rule is a baseline for a search. The column `frozen_at` of the view
    `results` is the round."""

    centralized: bool = False
    """If true, the trial is the centralized baseline. A round is M times E steps on all training
    samples, as if one client held them. `momentum = "local"` is then plain SGD momentum, and so is
    `"global"`."""
    partition: (
        Literal["iid", "dirichlet", "dirichlet-class", "shards", "natural", "file"] | None
    ) = "dirichlet"
    """The rule that assigns training samples to clients. `iid`: at random. `dirichlet`: each client
    has a class mix. `dirichlet-class`: each class is split among the clients. `shards`: each client
    has a few shards of the samples, sorted by class. `natural`: the clients of the data. `file`:
    the clients of `partition_file`."""
    partition_file: Annotated[str, _named(".csv", ".json")] | None = None
    """The file of `partition = "file"`, in the data folder. `NAME.csv` has the columns sample and
    client. `NAME.json` maps each sample to its client. A sample is its number from 0 on, or its
    path in an image folder. Each sample is named once."""
    partition_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = None
    """Content hash of the partition's file. `plan` computes it."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Concentration of the Dirichlet partitions. The smaller it is, the more clients differ."""
    min_samples: Count | None = 10
    """Fewest samples of a client in the partition `dirichlet-class`. NIID-Bench takes 10."""
    shards_per_client: Count | None = 2
    """Shards that each client gets. McMahan et al. 2017 take 2."""
    clients: Count | None = None
    """M, the number of registered clients. In a natural partition it is the number of the data's
    groups, and in that of a file the number of the file's clients.
    """
    participation: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """C, the fraction of the clients that are sampled in each round."""
    validation: Annotated[NotNegative, Field(lt=1)] = 0.0
    """Fraction of each client's training samples that is held back for validation. The seed chooses
    them. `plan` refuses a fraction that holds back no sample."""

    rounds: Count
    """T, the number of communication rounds."""
    local_steps: Count | None = None
    """E, the optimizer steps of a client per round. A plan has `local_steps` or `local_epochs`."""
    local_epochs: Count | None = None
    """Passes of a client over its samples per round, instead of `local_steps`."""
    batch_size: Count
    """Samples of a client's batch."""
    lr: Annotated[float, Field(gt=0)]
    """η, the learning rate of the first round."""
    lr_schedule: Literal["constant", "cosine", "step"] = "constant"
    """The learning rate by round. `cosine` falls along half a cosine and would reach 0 in round
    T + 1. `step` multiplies by `lr_gamma` every `lr_step` rounds."""
    lr_step: Count | None = None
    """Rounds between two steps of the learning rate."""
    lr_gamma: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    """Factor of the learning rate at each step."""
    clip_norm: NotNegative = 10.0
    """Bound on the norm of each local gradient. 0 turns it off."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """The client's optimizer, with the arithmetic of `torch.optim`. Adam's state is empty at the
    start of every client's round, so momentum must be `reset` or `none` with it."""
    adam_beta1: Decay | None = 0.9
    """β₁ of Adam (Kingma and Ba 2015)."""
    adam_beta2: Decay | None = 0.999
    """β₂ of Adam."""
    adam_eps: Positive | None = 1e-8
    """ε of Adam."""
    momentum: Literal["none", "reset", "local", "global"] = "reset"
    """The buffer of SGD momentum across rounds. `none`: no momentum. `reset`: each client starts
    each round with an empty buffer, which is the usual practice. `local`: a client continues from
    its own buffer. `global`: the server averages the buffers."""
    momentum_factor: Annotated[NotNegative, Field(lt=1)] | None = 0.9
    """Factor of the momentum buffer."""
    algorithm: (
        Annotated[str, AfterValidator(ALGORITHM.checked), Field(json_schema_extra=ALGORITHM.tell)]
        | None
    ) = ALGORITHMS[0]
    """The federated algorithm, as `scaffold`. Each algorithm has its own defaults for the keys that
    it uses. A key that it does not use is ignored. Other packages can add algorithms."""
    prox_mu: NotNegative | None = None
    """μ of FedProx. 0 is FedAvg."""
    server_lr: Positive | None = None
    """The server's learning rate: η of FedAdam and FedYogi, η_g of SCAFFOLD."""
    server_beta1: Decay | None = None
    """β₁ of FedAdam and FedYogi."""
    server_beta2: Decay | None = None
    """β₂ of FedAdam and FedYogi."""
    server_tau: Positive | None = None
    """τ of FedAdam and FedYogi. The larger it is, the less they adapt."""
    dyn_alpha: Positive | None = None
    """α of FedDyn."""
    server_momentum: Annotated[NotNegative, Field(lt=1)] = 0.0
    """The server's momentum over the rounds' updates: FedAvgM (Hsu et al. 2019). 0 is FedAvg. It is
    refused with an algorithm whose server has a step of its own."""
    weight_decay: NotNegative = 0.0
    """Weight decay: L2 in the gradient, or with `adamw` decoupled from it."""
    decay_norm: bool | None = True
    """If true, weight decay also applies to the normalizers' scale and shift."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of the arithmetic. `bfloat16` is autocast over float32 weights, statistics and loss."""

    seed: Index = 0
    """Seed of the initial weights, the partition, the batches and the sampling of clients."""
    evaluate_every: Count = 1
    """Rounds between evaluations. The last round is always evaluated."""
    client_accuracy: bool = False
    """If true, each client's accuracy on its own class mix is measured, for the view `clients`. If
    the data have test images of each client and the partition is natural, also its accuracy on
    these images."""
    keep_weights: bool = False
    """If true, the final weights are kept. `fedsweep export weights` writes them."""
    diagnostics: bool = False
    """If true, the view `curves` also has the mismatch of the running statistics, the deviation of
    the averaged local gradient from the central one, and the drift of the clients."""
    snapshot_every: Count | None = None
    """Rounds between snapshots. By default, a snapshot is taken after each round that takes over a
    second, otherwise once a second."""

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        if name := OTHER_NAMES.get(str(given.get("dataset"))):
            given = {**given, "dataset": name}
        if given.get("freeze_round") == "auto":
            given = {**given, "freeze_round": None, "freeze_rule": "auto"}
        chosen = {**field_defaults(cls), **given}
        kept = dict(given)
        if chosen["optimizer"] != "sgd" and chosen["momentum"] == "none":
            kept["momentum"] = "reset"  # with Adam the two are one trial
        for name, used in USED_WHEN.items():
            if not used(chosen):
                kept[name] = None
        if kept.get("algorithm", ALGORITHMS[0]) in BY_NAME:
            for key, value in BY_NAME[kept.get("algorithm", ALGORITHMS[0])].defaults.items():
                if kept.get(key) is None:
                    kept[key] = value
        return kept

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        values = self.__dict__
        for name, used in USED_WHEN.items():
            if values[name] is None and name not in _MAY_BE_NONE and used(values):
                raise ValueError(_MISSING.get(name, f"{name} needs a value"))
        if self.freeze_round is not None and self.freeze_round > self.rounds:
            raise ValueError(
                f"freeze_round = {self.freeze_round} lies after the last round "
                f"(rounds = {self.rounds}): choose 0 to {self.rounds}"
            )
        self._check_data()
        self._check_model()
        self._check_steps()
        self._check_optimizers()
        if self.normalizer == "hbn" and self.algorithm not in ("fedavg", None):
            raise ValueError(
                f"normalizer hbn cannot be used with algorithm {self.algorithm}: its mixture must "
                'stay with the client: choose algorithm = "fedavg", or another normalizer'
            )
        if self.gn_groups is not None:
            own = own_models.facts(self.model)
            widths = own.channels if own is not None else ()
            if any(width % self.gn_groups for width in widths):
                raise ValueError(
                    f"gn_groups = {self.gn_groups} does not divide the channels of "
                    f"{self.model} ({', '.join(map(str, widths))}): choose a divisor"
                )
        return self

    def _check_data(self) -> None:
        segments = self.dataset in SEGMENTATION
        task: own_models.Task = "segmentation" if segments else "classification"
        own = own_models.facts(self.model)
        if own is not None and own.task != task:
            which = own_models.names_for(task)
            raise ValueError(f"model = {self.model} does not fit {self.dataset}: choose {which}")
        if segments and self.partition not in ("natural", "iid", "file", None):
            raise ValueError(
                f"the images of {self.dataset} have no single class for a {self.partition} "
                'partition: choose partition = "natural" or "iid"'
            )
        if self.partition == "natural" and self.dataset in WITHOUT_CLIENTS:
            raise ValueError(
                f"{self.dataset} has no groups of its own for a natural partition: choose "
                "another partition, or a data set with clients"
            )
        if self.partition == "natural" and self.clients_by == "nothing":
            raise ValueError(
                'a natural partition of an image folder needs clients_by = "folder", "csv" or '
                '"lists"'
            )
        if self.dataset in TRAINING_SAMPLES:
            check_sizes(self, TRAINING_SAMPLES[self.dataset])

    def _check_model(self) -> None:
        own = own_models.facts(self.model)
        if own is None:  # a worker knows it
            return
        if own.normalizers and self.normalizer not in own.normalizers:
            raise ValueError(
                f"model = {self.model} does not fit normalizer = {self.normalizer}, because "
                f"{own.why_normalizers}: choose normalizer = {' or '.join(own.normalizers)}"
            )
        # Timm's models say so for all, and a worker tries them.
        draws = own.uses_generator and own.name != own_models.TIMM
        if draws and self.normalizer in REPEATING:
            raise ValueError(
                f"model = {self.model} does not fit normalizer = {self.normalizer}, because its "
                "dropout would differ between the two passes of the joint step: choose normalizer "
                "= bn, or a model without dropout"
            )
        size = self.image_size
        if size is not None and size < own.smallest_side:
            raise ValueError(
                f"image_size must be {own.smallest_side} or more for {self.model}, "
                f"{own.why_smallest}"
            )
        for key, side in (("image_size", size), ("image_height", self.image_height)):
            if side is not None and side % own.side_multiple:
                raise ValueError(
                    f"{key} = {side} is no multiple of {own.side_multiple}, as {self.model} needs"
                )

    def _check_steps(self) -> None:
        if self.local_steps is None and self.local_epochs is None:
            raise ValueError("local_steps needs a value (or local_epochs, instead)")
        if self.local_steps is not None and self.local_epochs is not None:
            raise ValueError("local_steps and local_epochs exclude each other: keep one")

    def _check_optimizers(self) -> None:
        if self.optimizer != "sgd" and self.momentum in ("local", "global"):
            raise ValueError(
                f"momentum = {self.momentum} is SGD's: {self.optimizer} begins every client's "
                'round with an empty state: choose momentum = "reset", or optimizer = "sgd"'
            )
        if self.server_momentum > 0 and self.algorithm is not None:
            own = BY_NAME.get(self.algorithm)
            if own is None or not own.averages:
                averaging = " or ".join(name for name, each in BY_NAME.items() if each.averages)
                raise ValueError(
                    f"server_momentum = {self.server_momentum:g} does not fit {self.algorithm}, "
                    f"whose server has a step of its own: choose algorithm = {averaging}, or "
                    "server_momentum = 0"
                )

    def cohort_size(self, clients: int) -> int:
        """Return how many of this number of clients are sampled per round: max(1, floor(C*M +
        1/2)).
        """
        return max(1, share(self.participation or 1.0, clients))

    def steps(self, samples: int) -> int:
        """Return the local steps per round of a client with this number of training samples."""
        if self.local_epochs is not None:
            return self.local_epochs * max(samples // self.batch_size, 1)
        assert self.local_steps is not None
        return self.local_steps * (self.clients or 1) if self.centralized else self.local_steps

    @property
    def row_bound(self) -> float:
        """The bound of the adaptive clipping by row; 0 for none."""
        return self.agc_clip or 0.0

    def lr_in(self, round: int) -> float:
        """Return the learning rate eta of a round. Rounds are counted from 1."""
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (round - 1) / self.rounds)) / 2
        if self.lr_schedule == "step":
            assert self.lr_step is not None
            assert self.lr_gamma is not None
            return float(self.lr * self.lr_gamma ** ((round - 1) // self.lr_step))
        return self.lr

    def frozen(self, round: int) -> bool:
        """Return whether the statistics are constants in this round (counted from 1)."""
        return self.freeze_round is not None and round > self.freeze_round


Given = Mapping[str, Any]


def _federated(c: Given) -> bool:
    return not c["centralized"]


def _used_by_algorithm(key: str) -> Callable[[Given], bool]:
    """Return whether the algorithm of a configuration uses a key. Another package's may use all."""

    def used(c: Given) -> bool:
        if not _federated(c) or not isinstance(c["algorithm"], str):
            return False
        own = BY_NAME.get(c["algorithm"])
        return own is None or key in own.defaults

    return used


def _users_of(key: str) -> str:
    """Return the condition of `_used_by_algorithm` in words."""
    own = ", ".join(name for name, each in BY_NAME.items() if key in each.defaults)
    return f"`centralized` is false and `algorithm` is {own} or of another package"


def _adapts(c: Given) -> bool:
    return bool(c["optimizer"] != "sgd")


def _resized(c: Given) -> bool:
    return c["dataset"] == "imagefolder" or str(c["dataset"]).startswith(HUGGING_FACE)


_CLIENTS_COUNT = (
    "`centralized` is false and `partition` is neither natural nor file; or `centralized` is true "
    "and `local_steps` is set"
)


_CONDITIONS: dict[str, tuple[str, Callable[[Given], bool]]] = {
    "fingerprint": ("`dataset` is in files on disk", lambda c: is_on_disk(c["dataset"])),
    "pretrained_hash": ("`pretrained` is set", lambda c: c["pretrained"] is not None),
    "code": (
        "`model` or `algorithm` is of another package",
        lambda c: bool(foreign_parts(IDENTIFIED, c)),
    ),
    "file": ("`dataset` is arrays", lambda c: c["dataset"] == "arrays"),
    "clients_by": ("`dataset` is imagefolder", lambda c: c["dataset"] == "imagefolder"),
    "image_size": ("`dataset` is imagefolder or huggingface:NAME", _resized),
    "image_height": (
        "`dataset` is cityscapes or camvid",
        lambda c: c["dataset"] in SEGMENTATION,
    ),
    "augment": (
        "`dataset` has images other than digits and characters",
        lambda c: c["dataset"] not in NEVER_AUGMENTED,
    ),
    "gn_groups": ("`normalizer` is gn", lambda c: c["normalizer"] == "gn"),
    "agc_clip": ("`normalizer` is ws", lambda c: c["normalizer"] == "ws"),
    "freeze_round": (
        "`normalizer` is fixbn and `freeze_rule` is given",
        lambda c: c["normalizer"] == "fixbn" and c["freeze_rule"] != "auto",
    ),
    "freeze": ("`normalizer` is fixbn", lambda c: c["normalizer"] == "fixbn"),
    "freeze_rule": ("`normalizer` is fixbn", lambda c: c["normalizer"] == "fixbn"),
    "partition": ("`centralized` is false", _federated),
    "partition_file": (
        "`centralized` is false and `partition` is file",
        lambda c: _federated(c) and c["partition"] == "file",
    ),
    "partition_fingerprint": (
        "`centralized` is false and `partition` is file",
        lambda c: _federated(c) and c["partition"] == "file",
    ),
    "alpha": (
        "`centralized` is false and `partition` is dirichlet or dirichlet-class",
        lambda c: _federated(c) and c["partition"] in Dirichlets,
    ),
    "min_samples": (
        "`centralized` is false and `partition` is dirichlet-class",
        lambda c: _federated(c) and c["partition"] == "dirichlet-class",
    ),
    "shards_per_client": (
        "`centralized` is false and `partition` is shards",
        lambda c: _federated(c) and c["partition"] == "shards",
    ),
    # One who holds everything takes M*E steps, or local epochs, for which M means nothing.
    "clients": (
        _CLIENTS_COUNT,
        lambda c: (
            c["partition"] not in BY_CLIENT if _federated(c) else c["local_steps"] is not None
        ),
    ),
    "participation": ("`centralized` is false", _federated),
    "lr_step": ("`lr_schedule` is step", lambda c: c["lr_schedule"] == "step"),
    "lr_gamma": ("`lr_schedule` is step", lambda c: c["lr_schedule"] == "step"),
    "algorithm": ("`centralized` is false", _federated),
    **{key: (_users_of(key), _used_by_algorithm(key)) for key in KEYS},
    "adam_beta1": ("`optimizer` is adam or adamw", _adapts),
    "adam_beta2": ("`optimizer` is adam or adamw", _adapts),
    "adam_eps": ("`optimizer` is adam or adamw", _adapts),
    "momentum_factor": (
        "`momentum` is not none and `optimizer` is sgd",
        lambda c: c["momentum"] != "none" and not _adapts(c),
    ),
    "decay_norm": ("`weight_decay` is above 0", lambda c: c["weight_decay"] != 0),
}
"""The condition under which a field has a meaning: in words, and as a function."""


USED_WHEN = {name: used for name, (_words, used) in _CONDITIONS.items()}
"""When a field has a meaning; elsewhere it is None and outside the identity."""


CONDITIONS = {name: words for name, (words, _used) in _CONDITIONS.items()}
"""The same conditions in words. Each key that decides is in backquotes."""


_MAY_BE_NONE = PINNED | set(KEYS)
"""Fields that may be None although they are used: a foreign algorithm has its own defaults."""


_MISSING = {
    "file": 'arrays need a file in the data folder: file = "NAME.npz" or "NAME.safetensors"',
    "partition_file": 'partition = "file" needs partition_file = "NAME.csv" or "NAME.json"',
    "freeze_round": (
        'fixbn needs a freeze_round: a round (64) or a share of the rounds ("50%"), or "auto"'
    ),
    "alpha": "a Dirichlet partition needs an alpha, for example alpha = 0.1",
    "clients": "clients is missing: set it in [protocol] or a [[grid]] block",
    "lr_step": 'lr_schedule = "step" needs an lr_step, the rounds between two steps',
}


@cache
def field_defaults(of: type[TrainConfig]) -> dict[str, Any]:
    """Return the default of each field."""
    return {name: info.default for name, info in of.model_fields.items()}
