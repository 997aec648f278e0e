"""FedAvg (McMahan et al. 2017), the `seq` engine: clients train one after another.

Round t: a cohort S_t of clients is drawn. Each starts from the server's state x, takes E steps of
clipped SGD on its own samples and returns x_m. Then x <- sum over m in S_t of (n_m / N) x_m, with
n_m client m's training samples and N their sum over the cohort.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers import models
from trainers.config import TrainConfig
from trainers.data import Dataset, Normalize, Split, crop_and_flip, draw_crops, local_batches
from trainers.evaluate import Score, score
from trainers.keys import keyed
from trainers.momentum import Momentum
from trainers.normalizers import norm_parameters, set_training
from trainers.partition import hold_back, partition
from trainers.vector import Vector

Visit = Callable[[Sequence[int]], Sequence[int]]
"""The order in which a cohort's clients are trained; it never shows in a result."""


class Diverged(Exception):
    """A loss or a weight is not a finite number."""


@dataclass(frozen=True)
class State:
    """All that round `round + 1` needs: keyed randomness leaves no generator to save."""

    round: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Round:
    """The measurements of one round; those of a round without evaluation are None.

    Losses are mean cross-entropies in nats, accuracies shares 0..1, `seconds` wall time, bytes the
    model's elements sent to and from the cohort. `train_loss` is the clients' mean over their
    local steps, weighed by training samples.
    """

    round: int
    phase: str
    train_loss: float
    test_loss: float | None
    test_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    state: Callable[[], State]
    """Copies the complete state after this round; to be called before the next is pulled."""


def run(
    config: TrainConfig,
    data: Dataset,
    state: State | None = None,
    *,
    device: str = "cpu",
    visit: Visit = sorted,
) -> Iterator[Round]:
    """Train a trial, yielding after each round; from `state`, as if it had never stopped.

    Raises:
        ValueError: the data hold too few samples for the partition.
        Diverged: a loss or a weight stopped being finite; the round is not yielded.

    """
    trial = _Federation(config, data, torch.device(device))
    start = 0
    if state is not None:
        trial.server.copy_(state.tensors["server"])
        start = state.round
    for number in range(start + 1, config.rounds + 1):
        began = time.perf_counter()
        train_loss = trial.train(number, visit)
        trial.check_finite(number, train_loss)
        due = number % config.evaluate_every == 0 or number == config.rounds
        test = trial.score(data.test) if due else None
        held = trial.score(trial.validation) if due and len(trial.validation.labels) else None
        for name, result in (("test", test), ("validation", held)):
            if result and not math.isfinite(result.loss):
                raise Diverged(f"the {name} loss of round {number} is {result.loss}")
        yield Round(
            round=number,
            phase="calibrate" if config.frozen(number) else "explore",
            train_loss=train_loss,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            validation_loss=held.loss if held else None,
            validation_accuracy=held.accuracy if held else None,
            bytes_up=trial.bytes_a_round,
            bytes_down=trial.bytes_a_round,
            seconds=time.perf_counter() - began,
            state=lambda number=number: trial.state(number),  # type: ignore[misc]  # a default binds it
        )


def cohort(config: TrainConfig, round: int) -> list[int]:
    """The clients of a round, ascending: max(1, floor(C*M + 1/2)) of M without replacement."""
    if config.cohort == config.clients:
        return list(range(config.clients))
    order = keyed(config.seed, "cohort", round).permutation(config.clients)
    return sorted(int(m) for m in order[: config.cohort])


class Average:
    """acc <- acc + (n_m / N) x_m over the cohort in ascending order, bit for bit.

    Floating-point sums depend on their order, so a vector that comes early waits for its turn.
    """

    def __init__(self, weights: Sequence[float], like: Tensor) -> None:
        self.weights = weights
        self.total = torch.zeros_like(like)
        self._waiting: dict[int, Tensor] = {}
        self._turn = 0

    def add(self, position: int, values: Tensor) -> None:
        """Take the vector of the client at this position of the ascending cohort."""
        if position != self._turn:
            self._waiting[position] = values.clone()
            return
        self._fold(values)
        while (waiting := self._waiting.pop(self._turn, None)) is not None:
            self._fold(waiting)

    def _fold(self, values: Tensor) -> None:
        self.total.add_(values, alpha=self.weights[self._turn])
        self._turn += 1


class _Federation:
    """A server, its clients' samples, and one model that each client in turn trains."""

    def __init__(self, config: TrainConfig, data: Dataset, device: torch.device) -> None:
        self.config = config
        self.data = data.to(device)
        self.device = device
        labels = data.train.labels.numpy()
        parts = [hold_back(p, config, m) for m, p in enumerate(partition(labels, config))]
        self.samples = [train for train, _ in parts]
        held = torch.from_numpy(np.concatenate([held for _, held in parts])).to(device)
        self.validation = Split(self.data.train.images[held], self.data.train.labels[held])

        model = models.build(config, data.channels, data.size, data.classes).to(device)
        self.vector = Vector(model, device)
        self.model = model
        self.affine = norm_parameters(model)
        self.server = self.vector.values.clone()
        self.momentum = Momentum(config, self.vector.parameters_end, self.vector.values)
        self.normalize = Normalize(data, self.server.dtype, device)
        self.losses = torch.zeros(config.local_steps, dtype=self.server.dtype, device=device)
        self.bytes_a_round = config.cohort * self.vector.elements * self.server.element_size()

    def train(self, round: int, visit: Visit) -> float:
        """One round of the whole cohort; returns its mean training loss."""
        frozen = self.config.frozen(round)
        layer_frozen = frozen and self.config.freeze == "layer"
        trained = self.vector.weights_end if layer_frozen else self.vector.parameters_end
        # What the phase holds constant is carried over, never averaged: averaging equal numbers
        # would still round them.
        averaged = trained if frozen else self.vector.end
        set_training(self.model, frozen=frozen)
        for parameter in self.affine:
            parameter.requires_grad_(not layer_frozen)

        members = cohort(self.config, round)
        sizes = [len(self.samples[m]) for m in members]
        weights = [n / sum(sizes) for n in sizes]
        average = Average(weights, self.server[:averaged])
        loss = torch.zeros(len(members), dtype=torch.float64, device=self.device)
        for client in visit(members):
            position = members.index(client)
            loss[position] = self.train_client(round, client, trained)
            average.add(position, self.vector.values[:averaged])
        self.server[:averaged].copy_(average.total)
        return math.fsum(w * x for w, x in zip(weights, loss.tolist(), strict=True))

    def train_client(self, round: int, client: int, trained: int) -> Tensor:
        """E local steps from the server's state, in `vector`; returns the mean loss, a scalar."""
        config, vector = self.config, self.vector
        vector.values.copy_(self.server)
        self.momentum.start()
        # What the steps need goes to the device once: a transfer a step would stall a GPU.
        batches = self.send(local_batches(self.samples[client], config, round, client))
        labels = self.data.train.labels[batches]
        if config.augment:
            steps = range(config.local_steps)
            keys = (keyed(config.seed, "augment", round, client, step) for step in steps)
            drawn = draw_crops(batches.shape[1], self.data.size, keys)
            rows, columns = (self.send(part) for part in drawn)
        for step in range(config.local_steps):
            images = self.data.train.images[batches[step]]
            if config.augment:
                images = crop_and_flip(images, rows[step], columns[step])
            vector.gradient.zero_()
            with self.precision():
                logits = self.model(self.normalize(images))
            loss = torch.nn.functional.cross_entropy(logits.to(self.losses.dtype), labels[step])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.descend(trained)
            self.losses[step] = loss.detach()
        return self.losses.double().mean()

    @torch.no_grad()
    def descend(self, trained: int) -> None:
        """Clip the local gradient, add the weight decay, and step along the first `trained`."""
        config, vector = self.config, self.vector
        if config.clip_norm > 0:
            norm = torch.nn.utils.get_total_norm(vector.gradients)
            vector.gradient.mul_(torch.clamp(config.clip_norm / (norm + 1e-6), max=1.0))
        if config.weight_decay > 0:
            decayed = trained if config.decay_norm else vector.weights_end
            vector.gradient[:decayed].add_(vector.values[:decayed], alpha=config.weight_decay)
        direction = self.momentum.direction(vector.gradient[:trained])
        vector.values[:trained].add_(direction, alpha=-config.lr)

    def send(self, indices: NDArray[np.int64]) -> Tensor:
        """Indices to the device."""
        return torch.from_numpy(indices).to(self.device)

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 is autocast: weights, statistics and loss stay in float32."""
        if self.config.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def check_finite(self, round: int, train_loss: float) -> None:
        if not math.isfinite(train_loss):
            raise Diverged(f"the training loss of round {round} is {train_loss}")
        if not bool(torch.isfinite(self.server).all()):
            raise Diverged(f"a weight or statistic is not finite after round {round}")

    def score(self, split: Split) -> Score:
        """Test the server's model."""
        self.vector.values.copy_(self.server)
        with self.precision():
            return score(self.model, split.images, split.labels, self.normalize)

    def state(self, round: int) -> State:
        return State(round, {"server": self.server.cpu().clone()})


def settle(threads: int) -> None:
    """Make torch's arithmetic repeatable in this process: threads, algorithms, no TF32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor costs a tenth of the time, and guards only against a bug that the
    # bitwise tests would show.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def numerics(config: TrainConfig, device: str) -> dict[str, str]:
    """What results are bitwise equal under: equal here, equal there. Call `settle` first."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "engine": "seq/1",
        "dtype": config.dtype,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": str(torch.version.cuda) if on_gpu else "",
        "cudnn": str(torch.backends.cudnn.version()) if on_gpu else "",  # type: ignore[no-untyped-call]  # untyped
        "tf32": str(torch.backends.cuda.matmul.allow_tf32) if on_gpu else "",
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }


def _cpu_model() -> str:
    """The processor's name: kernels are chosen by its instructions and its caches."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
