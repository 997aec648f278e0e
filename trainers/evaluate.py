"""Loss, accuracy and mean intersection over union of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.data.batches import Normalize
from trainers.data.dataset import VOID, Split
from trainers.progress import progress

LARGEST_BATCH = 500
"""Images of an evaluation batch, at most."""
LARGEST_BATCH_PIXELS = LARGEST_BATCH * 32 * 32
"""Pixels of an evaluation batch, at most: those of 500 images of 32x32."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0..1) over the samples, or over the pixels that are
    not void; mean IoU (0..1) where pixels have classes.

    `confusion` [classes, classes] counts them by true and predicted class.
    """

    loss: float
    accuracy: float
    miou: float | None
    confusion: Tensor


def batch_size(height: int, width: int) -> int:
    """Return the size of an evaluation batch: 500 images up to 32x32, fewer larger ones.

    It depends only on the data, because another size may change the last bits of a result.
    """
    return max(1, min(LARGEST_BATCH, LARGEST_BATCH_PIXELS // (height * width)))


@torch.no_grad()
def score(model: nn.Module, split: Split, classes: int, normalize: Normalize) -> Score:
    """Test a model in evaluation mode, with sums in float64."""
    model.eval()
    device = split.labels.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    overlap = _overlap(classes, device) if split.labels.dim() == 3 else None
    step = batch_size(*split.images.shape[1:3])
    for start in range(0, len(split.labels), step):
        logits = model(normalize(split.images[start : start + step]))
        logits, targets = by_row(logits, split.labels[start : start + step])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        summed = nn.functional.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
        loss += summed.double()
        predicted, counted = logits.argmax(1), targets != VOID
        pairs = targets[counted] * classes + predicted[counted]
        confusion += torch.bincount(pairs, minlength=len(confusion))
        if overlap is not None:
            overlap.update(predicted, targets)
        progress.step()
    confusion = confusion.view(classes, classes).cpu()
    n = int(confusion.sum())
    miou = None if overlap is None else overlap.compute().item()
    return Score(loss.item() / n, int(confusion.diagonal().sum()) / n, miou, confusion)


def _overlap(classes: int, device: torch.device) -> Any:
    from torchmetrics.classification import MulticlassJaccardIndex

    return MulticlassJaccardIndex(classes, ignore_index=VOID, validate_args=False).to(device)


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
