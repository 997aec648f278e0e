"""Local training: E clipped steps that one client takes on its own samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trainers import models
from trainers.adam import Adam
from trainers.algorithms import Algorithm, Turn, move
from trainers.config import MODELS, TrainConfig
from trainers.data.batches import Crops, Normalize, crop_and_flip
from trainers.data.dataset import VOID, Dataset
from trainers.draw_source import DrawSource
from trainers.draws import Drawn
from trainers.evaluate import by_row
from trainers.graph import Graphs, Replay
from trainers.joint import JointStep
from trainers.keys import keyed
from trainers.momentum import Momentum
from trainers.normalizers import TYPES, clip_rows, standardized
from trainers.progress import progress
from trainers.vector import Vector

MOST_AT_ONCE = 1 << 19
"""Rows and columns of a whole cohort's crops that are computed at once. They take 4 MiB."""


@dataclass(frozen=True)
class Trained:
    """A client after its local steps. The tensors may change as soon as the next one is pulled."""

    position: int
    """Its place in the ascending cohort."""
    client: int
    values: Tensor
    """The state vector [S]."""
    velocity: Tensor
    """The velocity of all parameters; [0] without momentum."""
    loss: Tensor
    """The mean over its steps, a scalar in float64."""


class Steps:
    """Local steps between fixed tensors, so that a CUDA graph can take each of them.

    A graph reads the number of the step from the device, and counts it there.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        most: int,
        drawn: Sequence[Tensor],
        loss: Tensor,
        graphs: Graphs,
    ) -> None:
        """Prepare up to `most` steps, with inputs as `drawn` [E, ...], and losses as `loss`.

        `step` gets the number of the step [1], and a row of each input.
        """
        self.step = step
        self.inputs = [part.new_empty(most, *part.shape[1:]) for part in drawn]
        device = drawn[0].device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.numbers = torch.arange(most, device=device)
        self.losses = loss.new_zeros(most, *loss.shape)
        self.take = Replay(self._take, graphs)

    def begin(self, drawn: Sequence[Tensor]) -> None:
        """Copy the inputs [E, ...] of a client's steps. The next step is its first one."""
        for buffer, part in zip(self.inputs, drawn, strict=True):
            buffer[: len(part)].copy_(part)
        self.number.zero_()

    def _take(self) -> None:
        """Take the next step, and write its loss."""
        row = [buffer.index_select(0, self.number).squeeze(0) for buffer in self.inputs]
        loss = self.step(self.number, *row)
        # Writing by index is many kernels if algorithms are deterministic.
        now = (self.numbers == self.number).view(-1, *[1] * loss.dim())
        torch.where(now, loss, self.losses, out=self.losses)
        self.number.add_(1)


class LocalTraining:
    """The one model that each client in turn trains, in `vector`."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        vector: Vector,
        model: nn.Module,
        momentum: Momentum,
        draws: DrawSource,
        algorithm: Algorithm,
        graphs: Graphs | None = None,
    ) -> None:
        """Prepare the clients that `draws` has. `graphs` take the steps on a GPU."""
        self.config = config
        self.data = data
        self.vector = vector
        self.model = model
        self.device = vector.values.device
        self.rows = standardized(model)
        self.draws_by_step = models.draws(config) or any(
            isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules()
        )
        """True if torch's generator decides the numbers of a step."""
        self.normalize = Normalize(data, vector.values.dtype, self.device)
        self.momentum = momentum
        self.algorithm = algorithm
        self.averaged = len(algorithm.server)
        """The end of the parameters that the server averages."""
        self.corrects_gradient = algorithm.overrides("correct_gradient")
        self.corrects_step = algorithm.overrides("correct_step")
        self.adam: Adam | None = None
        if config.optimizer != "sgd":
            self.adam = Adam(config, vector.parameters_end, vector.values)
        self.draws = draws
        self.crops = Crops(data.height, data.width, self.device)
        self.graphs = graphs
        self.lr = vector.values.new_zeros(())
        """The learning rate on the device, which graphs read."""
        self.steps: dict[tuple[object, ...], Steps] = {}
        """The steps of a GPU, by everything that decides which operations they have."""
        self.cohort: tuple[Drawn, tuple[Tensor, ...]] | None = None
        """The latest round, and `sent` of its whole cohort."""

    def start(self, turn: Turn) -> None:
        """Prepare the optimizer and the algorithm for a client's round."""
        self.momentum.start(turn.client)
        if self.adam is not None:
            self.adam.start()
        self.algorithm.begin_client(turn)

    def train(
        self, round: int, client: int, trained: int, joint: JointStep | None = None
    ) -> Tensor:
        """Take the local steps from what `vector` holds; returns the mean loss, a scalar.

        With `joint`, the first one has the statistics of the whole cohort.
        """
        drawn = self.positions(round, client)
        lr = self.config.lr_in(round)
        if self.graphs is None:
            losses = []
            for step, row in enumerate(zip(*drawn, strict=True)):
                self.seed(round, client, step)
                losses.append(self.step(row, trained, lr, None if step else joint))
                progress.step()
            return torch.stack(losses).double().mean()
        self.lr.fill_(lr)
        first: list[Tensor] = []
        if joint is not None:
            self.seed(round, client, 0)
            first = [self.step([part[0] for part in drawn], trained, self.lr, joint)]
            drawn = tuple(part[1:] for part in drawn)
            progress.step()
        steps = self.steps_of(drawn, trained, self.graphs)
        steps.begin(drawn)
        for step in range(len(drawn[0])):
            self.seed(round, client, len(first) + step)
            steps.take()
            progress.step()
        others = steps.losses[: len(drawn[0])]
        return torch.cat([*(loss[None] for loss in first), others]).double().mean()

    def steps_of(self, drawn: Sequence[Tensor], trained: int, graphs: Graphs) -> Steps:
        """Return the steps of this batch size, in the model's training mode."""
        modes = tuple(module.training for module in self.model.modules())
        key = (drawn[0].shape[1], trained, modes)
        if key not in self.steps:

            def step(_number: Tensor, *row: Tensor) -> Tensor:
                return self.step(row, trained, self.lr)

            most = max(self.draws.sampling.steps)
            self.steps[key] = Steps(step, most, drawn, self.lr, graphs)
        return self.steps[key]

    def step(
        self,
        row: Sequence[Tensor],
        trained: int,
        lr: float | Tensor,
        joint: JointStep | None = None,
    ) -> Tensor:
        """Take one local step on the batch of a row. Return its loss, a scalar.

        With `joint`, it is the client's part of a step of the whole cohort.
        """
        loss = self.differentiate(self.batch(*row), joint)
        self.descend(trained, lr)
        return loss

    def differentiate(self, batch: tuple[Tensor, Tensor], joint: JointStep | None) -> Tensor:
        """Write the gradient of a client's batch into `vector`. Return its loss, a scalar."""
        images, labels = batch
        if joint is None:
            loss = self.loss(self.logits(images), labels)
            self.vector.differentiate(loss)
        else:
            with joint.alone() as terms:
                loss = self.loss(self.logits(images), labels)
            self.vector.differentiate(loss + torch.stack(terms).sum())
        return loss.detach()

    def seed(self, round: int, client: int, step: int) -> None:
        """Key the dropout of the next step."""
        if self.draws_by_step:
            draw = keyed(self.config.seed, "dropout", round, client, step)
            torch.manual_seed(int(draw.randint(2**31)))

    def batches(
        self, round: int, client: int, *, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, H, W, C] and labels of a client's (first `limit`) local steps."""
        parts = (part[:limit] for part in self.positions(round, client))
        for row in zip(*parts, strict=True):
            yield self.batch(*row)

    def batch(
        self, samples: Tensor, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the images uint8 [B, H, W, C] and labels of one row of `positions`."""
        images, labels = self.data.train.images[samples], self.data.train.labels[samples]
        if rows is not None and columns is not None:
            images = crop_and_flip(images, rows, columns)
            if self.data.segmentation:
                labels = crop_and_flip(labels, rows, columns, fill=VOID)
        return images, labels

    def positions(self, round: int, client: int) -> tuple[Tensor, ...]:
        """Return a client's indices [E, B], and with augmentation the rows [E, B, H] and columns
        [E, B, W] of its crops.

        They are on the device for all local steps, because a transfer a step would stall a GPU. If
        they are few, those of the whole cohort are sent together.
        """
        drawn = self.draws.round(round)
        numbers = drawn.starts[-1] * (self.data.height + self.data.width)
        together = numbers <= MOST_AT_ONCE and len(set(drawn.shapes)) == 1
        if not together or client not in drawn.places:
            return self.sent(*self.draws.client(round, client))
        if self.cohort is None or self.cohort[0] is not drawn:
            self.cohort = drawn, self.sent(*drawn.stacked())
        return tuple(part[drawn.places[client]] for part in self.cohort[1])

    def sent(self, indices: NDArray[Any], offsets: NDArray[Any] | None) -> tuple[Tensor, ...]:
        """Send draws to the device. Return indices, and rows and columns if there are offsets."""
        first = self.send(indices).long()
        return (first,) if offsets is None else (first, *self.crops(self.send(offsets)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, over images or over the pixels that are not void."""
        logits, targets = by_row(logits, labels)
        if labels.dim() == 1:
            mean: Tensor = nn.functional.cross_entropy(logits, targets)
            return mean
        total = nn.functional.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
        return total / (targets != VOID).sum().clamp(min=1)

    def weighted_loss(
        self, batches: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]
    ) -> Tensor:
        """Return sum w_m (mean loss of batch m), of all batches in one pass."""
        logits = self.logits(torch.cat([images for images, _ in batches]))
        parts = torch.split(logits, [len(labels) for _, labels in batches])
        losses = [
            weight * self.loss(part, labels)
            for part, (_, labels), weight in zip(parts, batches, weights, strict=True)
        ]
        return torch.stack(losses).sum()

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Turn dropout off, because two passes are compared.

        In models that are not ours, everything but the normalization layers is in the mode of a
        test, because other layers may drop paths or blocks.
        """
        is_ours = self.config.model in MODELS
        random = [
            module
            for module in self.model.modules()
            if module.training
            and (isinstance(module, _DropoutNd) or not (is_ours or isinstance(module, TYPES)))
        ]
        for module in random:
            module.training = False
        yield
        for module in random:
            module.training = True

    def logits(self, images: Tensor) -> Tensor:
        """Return the model's output for images uint8 [B, H, W, C], in the type of its weights."""
        with self.precision():
            logits: Tensor = self.model(self.normalize(images))
        return logits.to(self.vector.values.dtype)

    @torch.no_grad()
    def descend(self, trained: int, lr: float | Tensor) -> None:
        """Clip the local gradient, let the algorithm correct it, add the weight decay, step along
        the first `trained`, and let the algorithm correct the step.

        A learning rate that is a tensor may change between two replays of a graph.
        """
        config, vector = self.config, self.vector
        if self.rows and config.agc_clip:
            clip_rows(self.rows, config.agc_clip)
        if config.clip_norm > 0:
            # Of what is trained: parameters at rest would be zeros in another sum.
            norm = torch.nn.utils.get_total_norm(vector.slopes)
            vector.gradient.mul_(torch.clamp(config.clip_norm / (norm + 1e-6), max=1.0))
        end = min(trained, self.averaged)
        if self.corrects_gradient:
            self.algorithm.correct_gradient(vector.gradient[:end], vector.values[:end])
        decayed = trained if config.decay_norm else vector.weights_end
        if config.weight_decay > 0 and config.optimizer != "adamw":
            vector.gradient[:decayed].add_(vector.values[:decayed], alpha=config.weight_decay)
        values, gradient = vector.values[:trained], vector.gradient[:trained]
        if self.adam is None:
            move(values, self.momentum.direction(gradient), lr)
        else:
            self.adam.step(values, gradient, decayed, lr)
        if self.corrects_step:
            self.algorithm.correct_step(vector.values[:end], lr)

    def send(self, draws: NDArray[Any]) -> Tensor:
        """Copy indices or offsets to the device."""
        return torch.from_numpy(draws).to(self.device)

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 is autocast: weights, statistics and loss stay in float32."""
        if self.config.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()
