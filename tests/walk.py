"""The engine `walk`: a random walk instead of training, for tests that are not about training.

It needs no torch, and a round takes a tenth of a millisecond. As with a real engine, each random
number is a function of seed, configuration and round. A snapshot holds everything that the next
round needs. So trials resume, fork from a trunk, are verified and diverge bit by bit.

A test installs it with the fixture `walk`: then the test's process and all that it starts use it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsweep.plans import ClientScore
from fedsweep.plans import Round as Measurements
from trainers import memory
from trainers.config import TrainConfig
from trainers.data.files import list_files
from trainers.engines import TEST_ENGINE, Diverged, Unfit, Unreadable
from trainers.facts import is_on_disk
from trainers.identity import canonical
from trainers.progress import progress

PLUGINS = Path(__file__).parent / "plugins"
"""The folder with the entry point, as pip would install it."""

SECONDS = "WALK_SECONDS"
"""The environment variable for the seconds of a round. It lets a trial last, at no cost."""

FOLDER = "WALK_FOLDER"
"""The environment variable for the folder of deeds.

The next trial that reaches the round of a file called `<deed>-<round>` does this:

- `fail`: raise a RuntimeError with the file's content.
- `fill`: raise the MemoryError of a process that has no memory left.
- `crash`: write the file's content to stderr, and abort the process.
- `hang`: wait without a step, as long as the file is there.

The first three happen once: the file is deleted. A file `<deed>-seed-<seed>` is for the next round
of any trial with this seed. `slow_down` writes a file of another kind.
"""

SLOW = "slow"
"""The file of deeds with the seconds of each round, as long as the file is there."""

LARGEST_LR = 1e20
"""Without a bound on its gradients, a trial of a larger learning rate diverges in round 1."""

MODULES = ()
MODEL_MODULES: Mapping[str, tuple[str, ...]] = {}
CLASSES = 10
SAMPLES = 100
"""Training samples of each client."""

STATE = struct.Struct("<16s496xd496x")
"""A snapshot's content: the trunk's key, and where the walk is, in the middle of a kilobyte."""

begin_memory = memory.begin
peak_memory = memory.taken
total_memory = memory.total
reserved_memory = memory.reserved
free_memory = memory.free


@dataclass(frozen=True)
class Data:
    """A data set of no samples."""

    fingerprint: str
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """The place of the walk after a round."""

    round: int
    key: bytes
    place: float


@dataclass(frozen=True, kw_only=True)
class Round(Measurements):
    """The measurements of a round, its images, its state, and its weights."""

    images: int
    state: Callable[[], State]
    weights: Callable[[], bytes]


def install(patch: Any, name: str = "walk") -> None:
    """Let this process, and the processes that it starts, use this engine, or another walk."""
    path = [str(PLUGINS), str(PLUGINS.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    patch.setenv("PYTHONPATH", os.pathsep.join(path))
    patch.setenv(TEST_ENGINE, name)
    patch.syspath_prepend(PLUGINS)


def slow_down(folder: Path, seconds: float = 0.1) -> dict[str, str]:
    """Return the environment of a worker whose trials last until `speed_up` is called."""
    (folder / SLOW).write_text(str(seconds))
    return {FOLDER: str(folder)}


def speed_up(folder: Path) -> None:
    """Let the trials of a slow worker come to their end at once."""
    (folder / SLOW).unlink()


def count_gpus() -> int:
    return 0


def rehearse(device: str, _threads: int) -> None:
    if device != "cpu":
        raise RuntimeError(f"a walk cannot use {device}")


def reserve(_elements: int, _device: str) -> None:
    """Take no memory."""


def load_normalizer(_name: str) -> None:
    """Need no normalizer."""


def load_algorithm(_name: str) -> None:
    """Need no algorithm."""


def load_model(_name: str) -> None:
    """Need no model."""


def model_elements(_name: str) -> int:
    return 0


def packages(_config: TrainConfig) -> Sequence[str]:
    return ()


def uses_generator(_config: TrainConfig) -> bool:
    return False


def numerics_of(config: TrainConfig, _device: str, threads: int) -> dict[str, str]:
    parts = {"engine": "walk/1", "dtype": config.dtype, "threads": str(threads)}
    return parts | {"processor": "a walker", "cuda": ""}


def load(config: TrainConfig, root: Path | None) -> Data:
    """Return the fingerprint of the images in a folder, as a real engine does."""
    if is_on_disk(config.dataset) and root is not None:
        return Data(list_files(config.dataset, root).content().fingerprint)
    return Data(hashlib.blake2b(config.dataset.encode(), digest_size=16).hexdigest())


def class_counts(config: TrainConfig, _root: Path | None) -> list[list[int]]:
    return [[SAMPLES // CLASSES] * CLASSES for _ in range(config.clients or 1)]


def pack(state: State) -> bytes:
    return STATE.pack(state.key, state.place)


def unpack(round: int, content: bytes) -> State:
    try:
        return State(round, *STATE.unpack(content))
    except struct.error as error:
        raise Unreadable(str(error)) from error


def pack_weights(weights: bytes) -> bytes:
    return weights


def is_out_of_memory(_error: Exception) -> bool:
    return False


def is_broken_device(error: Exception) -> bool:
    return "CUDA error" in str(error)


def run(
    config: TrainConfig, _data: Data, state: State | None = None, *, device: str = "cpu"
) -> Iterator[Round]:
    """Walk from the start, or from a state."""
    assert device == "cpu"
    key = trunk_key(config)
    if state is not None and (state.key != key or not 0 <= state.round <= config.rounds):
        raise Unfit("it is another trial's")
    start = State(0, key, draw(key, "start")) if state is None else state
    place = start.place
    for number in range(start.round + 1, config.rounds + 1):
        began = time.perf_counter()
        meet(number)
        do_deeds(f"seed-{config.seed}")
        place = walked(config, key, number, place)
        progress.step()
        time.sleep(pace())
        if not math.isfinite(place):
            raise Diverged(f"the training loss of round {number} is {place}")
        after = State(number, key, place)
        yield Round(
            **measured(config, key, number, place),
            seconds=time.perf_counter() - began,
            images=SAMPLES,
            state=lambda after=after: after,  # type: ignore[misc]  # a default binds it
            weights=lambda after=after: pack(after),  # type: ignore[misc]
        )


def trunk_key(config: TrainConfig) -> bytes:
    """Return the same key for all trials that share a trunk."""
    identity = canonical(config)
    if config.normalizer in ("bn", "fixbn"):
        for name in ("normalizer", "freeze_round", "freeze", "freeze_rule"):
            identity.pop(name, None)
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).digest()


def draw(key: bytes, *index: object) -> float:
    """Return a number in [0, 1) that depends on its arguments only."""
    content = "\x1f".join(map(str, index)).encode()
    digest = hashlib.blake2b(content, key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def walked(config: TrainConfig, key: bytes, round: int, place: float) -> float:
    """Return where the walk is after a round: in [0, 1)."""
    if config.lr > LARGEST_LR and not config.clip_norm:
        return math.nan
    phase = config.freeze if config.frozen(round) else "explore"
    return 0.9 * place + 0.1 * draw(key, "step", round, phase)


def measured(config: TrainConfig, key: bytes, round: int, place: float) -> dict[str, Any]:
    """Return a round's measurements, without its seconds."""
    due = round % config.evaluate_every == 0 or round == config.rounds
    validated = due and config.validation > 0
    scored = due and config.client_accuracy and not config.centralized
    clients = tuple(
        ClientScore(client, SAMPLES, (1 - place + draw(key, "client", client, round)) / 2)
        for client in range(config.clients or 1 if scored else 0)
    )
    accuracies = [client.test_accuracy for client in clients]
    layers = {"walk": place / 3} if config.diagnostics else None
    return {
        "round": round,
        "phase": "calibrate" if config.frozen(round) else "explore",
        "train_loss": place,
        "test_loss": place + 0.125 if due else None,
        "test_accuracy": 1 - place if due else None,
        "validation_loss": place + 0.0625 if validated else None,
        "validation_accuracy": (2 - place) / 2 if validated else None,
        "bytes_up": STATE.size,
        "bytes_down": STATE.size,
        "mean_client_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "worst_client_accuracy": min(accuracies, default=None),
        "statistics_mismatch": place / 3 if config.diagnostics else None,
        "statistics_mismatch_layers": layers,
        "gradient_deviation": place / 5 if config.diagnostics else None,
        "client_drift": place / 7 if config.diagnostics else None,
        "clients": clients,
    }


def pace() -> float:
    """Return the seconds that a round takes now."""
    if folder := os.environ.get(FOLDER):
        with suppress(OSError, ValueError):
            return float(Path(folder, SLOW).read_text())
    return float(os.environ.get(SECONDS, "0"))


def meet(round: int) -> None:
    """Do what the folder of deeds has for a round. A test in this process may replace it."""
    do_deeds(str(round))


def do_deeds(name: str) -> None:
    """Do what the folder of deeds has under a name."""
    if (folder := os.environ.get(FOLDER)) is None:
        return
    while Path(folder, f"hang-{name}").exists():
        time.sleep(0.1)  # rarely, because a process that uses the processor is no stalled one
    for deed in ("fail", "fill", "crash"):
        file = Path(folder, f"{deed}-{name}")
        with suppress(FileNotFoundError):
            content = file.read_text()
            file.unlink()
            DEEDS[deed](content)


def fail(content: str) -> None:
    raise RuntimeError(content)


def fill(_content: str) -> None:
    raise MemoryError


def crash(content: str) -> None:
    os.write(2, content.encode())
    os.abort()


DEEDS: dict[str, Callable[[str], None]] = {"fail": fail, "fill": fill, "crash": crash}
