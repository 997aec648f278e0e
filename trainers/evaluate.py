"""Loss, accuracy and mean intersection over union of a model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.data.batches import Normalize
from trainers.data.dataset import VOID, Split
from trainers.graph import Graphs, Replay
from trainers.progress import progress

LARGEST_BATCH = 500
"""Images of an evaluation batch, at most."""
LARGEST_BATCH_PIXELS = LARGEST_BATCH * 32 * 32
"""Pixels of an evaluation batch, at most: those of 500 images of 32x32."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0..1) over the samples, or over the pixels that are
    not void; mean IoU (0..1) where pixels have classes.

    `confusion` [classes, classes] counts them by true and predicted class. `predicted` [N], or
    [N, H, W], are the predicted classes.
    """

    loss: float
    accuracy: float
    miou: float | None
    confusion: Tensor
    predicted: Tensor


def batch_size(height: int, width: int) -> int:
    """Return the size of an evaluation batch: 500 images up to 32x32, fewer larger ones.

    It depends only on the data, because another size may change the last bits of a result.
    """
    return max(1, min(LARGEST_BATCH, LARGEST_BATCH_PIXELS // (height * width)))


class Evaluation:
    """Tests of one model on a split, in evaluation mode, with sums in float64.

    The device never waits for the host between two batches. Its results are copied to the host at
    once, and counted there: the sum of the losses in the first eight bytes, then the predicted
    classes. With `graphs`, each full batch is launched as a CUDA graph.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        classes: int,
        normalize: Normalize,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
        graphs: Graphs | None = None,
    ) -> None:
        """Prepare the tests. `precision` is the context of the model's forward pass."""
        self.model = model
        self.split = split
        self.classes = classes
        self.normalize = normalize
        self.precision = precision
        self.batch = batch_size(*split.images.shape[1:3])
        self.labels = split.labels.cpu()
        self.kind = torch.uint8 if classes <= 256 else torch.int32
        bytes_ = 8 + split.labels.numel() * self.kind.itemsize
        self.results = torch.zeros(bytes_, dtype=torch.uint8, device=split.labels.device)
        self.loss, self.predicted = self._parts(self.results)
        self.full: Replay | None = None
        if graphs is not None and len(self.labels) >= self.batch:
            buffers = (split.images, split.labels, self.predicted)
            self.images, self.targets, self.output = (
                t[: self.batch].clone(memory_format=torch.contiguous_format) for t in buffers
            )
            self.full = Replay(self._test_buffers, graphs)

    def score(self) -> Score:
        """Test the model as it is now."""
        self.launch()
        return self.read()

    @torch.no_grad()
    def launch(self) -> None:
        """Test the model on all images, without waiting for the device."""
        self.model.eval()
        self.loss.zero_()
        for start in range(0, len(self.labels), self.batch):
            images, labels, predicted = (
                t[start : start + self.batch]
                for t in (self.split.images, self.split.labels, self.predicted)
            )
            if self.full is not None and len(labels) == self.batch:
                self.images.copy_(images)
                self.targets.copy_(labels)
                self.full()
                predicted.copy_(self.output)
            else:
                self.test(images, labels, predicted)
            progress.step()

    def _test_buffers(self) -> None:
        self.test(self.images, self.targets, self.output)

    def test(self, images: Tensor, labels: Tensor, predicted: Tensor) -> None:
        """Add the loss of a batch to the sum, and write its predicted classes."""
        with self.precision():
            logits = self.model(self.normalize(images))
            logits, targets = by_row(logits, labels)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = nn.functional.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
        self.loss.add_(loss.double())
        predicted.copy_(logits.argmax(1).view_as(predicted))

    def read(self) -> Score:
        """Wait for the results, and count the predicted classes on the host."""
        loss, predicted = self._parts(self.results.cpu())
        confusion = torch.zeros(self.classes**2, dtype=torch.int64)
        overlap = _overlap(self.classes) if self.labels.dim() == 3 else None
        for start in range(0, len(self.labels), self.batch):
            end = start + self.batch
            targets = self.labels[start:end].flatten().long()
            guesses = predicted[start:end].flatten().long()
            counted = targets != VOID
            pairs = targets[counted] * self.classes + guesses[counted]
            confusion += torch.bincount(pairs, minlength=len(confusion))
            if overlap is not None:
                overlap.update(guesses, targets)
        confusion = confusion.view(self.classes, self.classes)
        n = int(confusion.sum())
        miou = None if overlap is None else overlap.compute().item()
        return Score(
            loss.item() / n, int(confusion.diagonal().sum()) / n, miou, confusion, predicted
        )

    def _parts(self, results: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of the sum of the losses, and of the predicted classes [N] or [N, H, W]."""
        predicted = results[8:].view(self.kind).view(self.split.labels.shape)
        return results[:8].view(torch.float64)[0], predicted


def _overlap(classes: int) -> Any:
    from torchmetrics.classification import MulticlassJaccardIndex

    return MulticlassJaccardIndex(classes, ignore_index=VOID, validate_args=False)


def by_row(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, K, H, W] and labels [B, H, W] as [B*H*W, K] and [B*H*W]; [B, K] as they are.

    The loss of rows has a deterministic form on a GPU, that of maps has none.
    """
    if logits.dim() == 4:
        logits = logits.permute(0, 2, 3, 1).flatten(0, 2)
    return logits, labels.flatten().long()


def client_accuracy(confusion: Tensor, mix: NDArray[np.int64]) -> float | None:
    """Return the accuracy (0..1) of a model on a test set of a client's own class mix [classes].

    Sum over c of q_c recall_c, with q the client's fractions of the classes that are tested. None
    if none of its classes is tested.
    """
    counts = confusion.double().numpy()
    tested = counts.sum(1)
    recall = counts.diagonal() / np.maximum(tested, 1)
    share = np.where(tested > 0, mix, 0).astype(np.float64)
    return float(share @ recall / share.sum()) if share.sum() > 0 else None


class OwnTests:
    """The test images of each client, to test it on its own."""

    def __init__(self, labels: Tensor, members: NDArray[np.int64], clients: int) -> None:
        """Prepare for test images with these labels [N], each of a client [N]."""
        self.labels = labels.cpu()
        self.members = torch.from_numpy(members)
        self.samples: list[int] = torch.bincount(self.members, minlength=clients).tolist()
        """Test images of each client, [M]."""

    def accuracies(self, predicted: Tensor) -> list[float | None]:
        """Return each client's accuracy (0..1), [M]; None for a client without test images."""
        right = self.members[predicted == self.labels]
        counts = torch.bincount(right, minlength=len(self.samples)).tolist()
        return [k / n if n else None for k, n in zip(counts, self.samples, strict=True)]


def worst_tenth(accuracies: Sequence[float]) -> float:
    """Return the mean of the lowest tenth of the accuracies, rounded up (Li et al. 2020, q-FFL)."""
    ordered = sorted(accuracies)
    return statistics.fmean(ordered[: -(-len(ordered) // 10)])


def own_accuracies(scores: Sequence[tuple[float | None, int]]) -> dict[str, Any]:
    """Return the measures of the clients' accuracies on their own test images.

    `scores` are the accuracies, each with the number of test images. A client without test images
    does not count.
    """
    own = [(accuracy, samples) for accuracy, samples in scores if accuracy is not None]
    if not own:
        return {}
    each = [accuracy for accuracy, _ in own]
    total = sum(samples for _, samples in own)
    return {
        "mean_own_accuracy": statistics.fmean(each),
        "weighted_own_accuracy": math.fsum(a * n for a, n in own) / total,
        "decile_own_accuracy": worst_tenth(each),
        "worst_own_accuracy": min(each),
    }
