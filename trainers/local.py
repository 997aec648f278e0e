"""Local training: E steps of clipped SGD that one client takes on its own samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from trainers.config import TrainConfig
from trainers.data.batches import Crops, Normalize, crop_and_flip
from trainers.data.dataset import VOID, Dataset
from trainers.draw_source import DrawSource
from trainers.draws import Drawn
from trainers.evaluate import by_row
from trainers.keys import keyed
from trainers.momentum import Momentum
from trainers.normalizers import clip_rows, standardized
from trainers.progress import progress
from trainers.vector import Vector

MOST_AT_ONCE = 1 << 19
"""Rows and columns of a whole cohort's crops that are computed at once. They take 4 MiB."""


class LocalTraining:
    """The one model that each client in turn trains, in `vector`."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        vector: Vector,
        model: nn.Module,
        draws: DrawSource,
    ) -> None:
        self.config = config
        self.data = data
        self.vector = vector
        self.model = model
        self.device = vector.values.device
        self.rows = standardized(model)
        self.has_dropout = any(isinstance(module, _DropoutNd) for module in model.modules())
        self.normalize = Normalize(data, vector.values.dtype, self.device)
        self.draws = draws
        self.crops = Crops(data.height, data.width, self.device)
        self.cohort: tuple[Drawn, tuple[Tensor, ...]] | None = None
        """The latest round, and `sent` of its whole cohort."""

    def train(
        self,
        samples: NDArray[Any],
        round: int,
        client: int,
        trained: int,
        momentum: Momentum,
    ) -> Tensor:
        """Take the local steps from what `vector` holds; returns the mean loss, a scalar."""
        losses = []
        lr = self.config.lr_in(round)
        for step, (images, labels) in enumerate(self.batches(samples, round, client)):
            if self.has_dropout:
                draw = keyed(self.config.seed, "dropout", round, client, step)
                torch.manual_seed(int(draw.randint(2**31)))
            self.vector.gradient.zero_()
            loss = self.loss(self.logits(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.descend(trained, lr, momentum)
            losses.append(loss.detach())
            progress.step()
        return torch.stack(losses).double().mean()

    def batches(
        self,
        samples: NDArray[Any],  # noqa: ARG002  # the source has them
        round: int,
        client: int,
        *,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, H, W, C] and labels of a client's (first `limit`) local steps."""
        train, parts = self.data.train, self.positions(round, client)
        for batch, *crop in zip(*(part[:limit] for part in parts), strict=True):
            images, labels = train.images[batch], train.labels[batch]
            if crop:
                rows, columns = crop
                images = crop_and_flip(images, rows, columns)
                if self.data.segmentation:
                    labels = crop_and_flip(labels, rows, columns, fill=VOID)
            yield images, labels

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

    def gradient(
        self, batches: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]
    ) -> Tensor:
        """Return the gradient [P] of sum w_m (mean loss of batch m), of all batches in one pass."""
        self.vector.gradient.zero_()
        logits = self.logits(torch.cat([images for images, _ in batches]))
        parts = torch.split(logits, [len(labels) for _, labels in batches])
        losses = [
            weight * self.loss(part, labels)
            for part, (_, labels), weight in zip(parts, batches, weights, strict=True)
        ]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # unannotated
        return self.vector.gradient.clone()

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Dropout off: two passes are compared."""
        dropouts = [m for m in self.model.modules() if isinstance(m, _DropoutNd) and m.training]
        for module in dropouts:
            module.eval()
        yield
        for module in dropouts:
            module.train()

    def logits(self, images: Tensor) -> Tensor:
        """Return the model's output for images uint8 [B, H, W, C], in the type of its weights."""
        with self.precision():
            logits: Tensor = self.model(self.normalize(images))
        return logits.to(self.vector.values.dtype)

    @torch.no_grad()
    def descend(self, trained: int, lr: float, momentum: Momentum) -> None:
        """Clip the local gradient, add the weight decay, and step along the first `trained`."""
        config, vector = self.config, self.vector
        if self.rows and config.agc_clip:
            clip_rows(self.rows, config.agc_clip)
        if config.clip_norm > 0:
            # Of what is trained: parameters at rest would be zeros in another sum.
            gradients = [
                p.grad for p in vector.parameters if p.requires_grad and p.grad is not None
            ]
            norm = torch.nn.utils.get_total_norm(gradients)
            vector.gradient.mul_(torch.clamp(config.clip_norm / (norm + 1e-6), max=1.0))
        if config.weight_decay > 0:
            decayed = trained if config.decay_norm else vector.weights_end
            vector.gradient[:decayed].add_(vector.values[:decayed], alpha=config.weight_decay)
        direction = momentum.direction(vector.gradient[:trained])
        vector.values[:trained].add_(direction, alpha=-lr)

    def send(self, draws: NDArray[Any]) -> Tensor:
        """Copy indices or offsets to the device."""
        return torch.from_numpy(draws).to(self.device)

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 is autocast: weights, statistics and loss stay in float32."""
        if self.config.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()
