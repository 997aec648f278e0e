"""The registry of engines, and the interface between an engine and the sweep.

An engine trains a trial round by round. It is a module, or an object, with the attributes of
`Engine`. `seq` is ours. Other packages add engines as entry points of the group `fedsweep.engines`.
Each entry point names such a module.

This file imports no torch. An engine imports its libraries inside its functions, because a worker
must start, and name the missing library, on a machine where an import fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from trainers.config import TrainConfig

OURS = {"seq": "trainers.seq", "stack": "trainers.stack"}
"""The modules of our own engines, by name. Their states and snapshots have the same layout."""

DEFAULT = "seq"
"""The engine that trains on every device. It loads the data before a trial's engine is chosen."""

AUTO = "auto"
"""The wish to let `choose` decide."""

WISHES = (AUTO, *OURS)
"""The engines that a user can ask for."""

ENTRY_POINT = "fedsweep.engines"
"""The group of entry points by which other packages add engines."""

TEST_ENGINE = "FEDSWEEP_TEST_ENGINE"
"""The environment variable that names an engine to use instead of `DEFAULT`. It is for tests.

Tests replace the engine of real workers. Their slots are spawned processes, which share nothing
with a test but the environment. The variable only names an engine of the registry: the test's
engine is added by its entry point, like that of any other package. Users ask for an engine of ours
with `fedsweep work --engine`.
"""


class Diverged(Exception):
    """A loss or a weight is not a finite number."""


class Unsuitable(Exception):
    """The engine that the user asks for cannot train this trial on this device."""


class Unfit(Exception):
    """A state does not belong to this trial."""


class Unreadable(Exception):
    """The content of a snapshot is not a state. The cause says why."""


@dataclass(frozen=True)
class Choice:
    """The engine that trains a trial, and the reason in a few words."""

    engine: str
    why: str


class Data(Protocol):
    """A data set that an engine has loaded."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content."""

    @property
    def found(self) -> Sequence[str]:
        """Sentences for the trial's log about files that were used, ignored and changed."""


class State(Protocol):
    """Everything that the round after `round` needs."""

    @property
    def round(self) -> int:
        """The number of rounds that are done."""


class Round(Protocol):
    """A round that was trained.

    Its other attributes are the measurements of `trainers.fedavg.Round`, under the same names.
    """

    @property
    def round(self) -> int:
        """The round's number, from 1."""

    @property
    def clients(self) -> Sequence[Any]:
        """The clients' scores, each with `client`, `samples` and `test_accuracy`."""

    @property
    def images(self) -> int:
        """The images of all local steps. An image counts each time it is used."""

    @property
    def state(self) -> Callable[[], State]:
        """Copies the state after this round. Call it before the next round is pulled."""

    @property
    def weights(self) -> Callable[[], Any]:
        """Copies the model after this round. Call it before the next round is pulled."""


class Engine(Protocol):
    """Everything that a worker, an attempt and a verification ask of a trainer."""

    MODULES: tuple[str, ...]
    """The modules that every trial needs. A worker imports them before its first claim."""

    MODEL_MODULES: Mapping[str, tuple[str, ...]]
    """The modules that a model needs besides, by its name. A model may be missing."""

    def count_gpus(self) -> int:
        """Return the number of this machine's GPUs that the engine can use."""

    def rehearse(self, device: str, threads: int) -> None:
        """Train one step of known numbers on a device.

        Raises:
            Exception: the device is broken, computes wrong numbers, or has too little memory.

        """

    def reserve(self, elements: int, device: str) -> None:
        """Allocate memory for so many numbers, and free it.

        Raises:
            RuntimeError: there is too little memory.

        """

    def load_normalizer(self, name: str) -> None:
        """Import a normalizer of another package.

        Raises:
            ValueError: the package offers no normalizer. It does so on every machine.
            Exception: it cannot be imported on this machine.

        """

    def load_algorithm(self, name: str) -> None:
        """Import an algorithm of another package, with the errors of `load_normalizer`."""

    def load_model(self, name: str) -> None:
        """Import a model of another package, with the errors of `load_normalizer`."""

    def model_elements(self, name: str) -> int | None:
        """Return about how many elements a model's state has; None if that is not known.

        Raises:
            Exception: a model of another package cannot be imported on this machine.

        """

    def packages(self, config: TrainConfig) -> Sequence[str]:
        """Return the packages, beyond those of every trial, that an attempt's record names."""

    def numerics_of(self, config: TrainConfig, device: str, threads: int) -> dict[str, str]:
        """Return everything that can change a bit of a result.

        It also sets this process's arithmetic, so that results repeat.
        """

    def load(self, config: TrainConfig, root: Path | None) -> Data:
        """Load a trial's data set and initial weights, and check that the trial fits them.

        Raises:
            BadData: data or weights are missing, damaged, or differ from the planned ones.
            ValueError: the data cannot be split as configured, the model does not fit them, or
                the algorithm refuses the configuration.

        """

    def class_counts(self, config: TrainConfig, root: Path | None) -> Sequence[Sequence[int]]:
        """Return each client's samples of each class, [M, classes]; pixels in segmentation.

        Raises:
            BadData: the data are missing, damaged, or differ from the planned fingerprint.
            ValueError: they cannot be split.

        """

    def run(
        self, config: TrainConfig, data: Any, state: Any = None, *, device: str = "cpu"
    ) -> Iterator[Round]:
        """Train a trial from its first round, or from a state. Yield after each round.

        Data and state come from the same engine.

        Raises:
            Unfit: the state does not belong to this trial; before the first round.
            Diverged: a loss or a weight stopped being finite; the round is not yielded.

        """

    def pack(self, state: Any) -> bytes:
        """Return the content of a snapshot's file."""

    def unpack(self, round: int, content: bytes) -> State:
        """Return the state in the content of a snapshot's file.

        Raises:
            Unreadable: the content is not a state.

        """

    def pack_weights(self, weights: Any) -> bytes:
        """Return the content of a file of final weights."""

    def begin_memory(self, device: str) -> None:
        """Reset the measured peak of the device's memory, if that is possible."""

    def peak_memory(self, device: str) -> int:
        """Return the peak of the memory that training took, bytes."""

    def total_memory(self, device: str) -> int:
        """Return the size of the device's memory, bytes."""

    def reserved_memory(self, device: str) -> int:
        """Return the bytes of the device's memory that this process has now."""

    def free_memory(self, device: str) -> None:
        """Give back the device's memory that this process keeps but does not use."""

    def uses_generator(self, config: TrainConfig) -> bool:
        """Return whether training draws from a random generator of the whole process.

        Two such trials never train in one process at the same time.
        """

    def is_out_of_memory(self, error: Exception) -> bool:
        """Return whether an error means that memory is exhausted. `MemoryError` always does."""

    def is_broken_device(self, error: Exception) -> bool:
        """Return whether an error is the device's fault.

        After such an error, every further trial would fail on the device.
        """


def engine_of(wish: str = AUTO) -> Engine:
    """Return the engine of a worker before it has a trial's data, or one that is asked for."""
    return find(os.environ.get(TEST_ENGINE) or (DEFAULT if wish == AUTO else wish))


def choose(config: TrainConfig, data: Data, device: str, wish: str = AUTO) -> Choice:
    """Choose the engine of a trial from its configuration, its data and its device alone.

    The machine's load never decides, because another engine has other numerics.

    Raises:
        Unsuitable: the engine that is asked for cannot train this trial; the message says why.

    """
    if name := os.environ.get(TEST_ENGINE):
        return Choice(name, "the engine of the tests")
    if wish == "seq":
        return Choice("seq", "as asked for")
    refusal: str | None = import_module(OURS["stack"]).refusal(config, data, device)
    if refusal is None:
        return Choice("stack", "the clients of a round train at the same time")
    if wish == "stack":
        raise Unsuitable(f"the engine stack cannot train this trial: {refusal}")
    return Choice("seq", refusal)


@cache
def find(name: str) -> Engine:
    """Return an engine of ours, or of another package.

    Raises:
        ValueError: no installed package offers it.

    """
    if name in OURS:
        return cast("Engine", import_module(OURS[name]))
    for point in entry_points(group=ENTRY_POINT, name=name):
        return cast("Engine", point.load())
    raise ValueError(f"no installed package offers the engine {name}: install it here too")
