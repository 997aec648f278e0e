"""Loss and accuracy of the global model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.data import Normalize

BATCH = 500
"""Pictures in an evaluation batch; fixed, because another size may give other last bits."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0..1) over `samples`."""

    loss: float
    accuracy: float
    samples: int


@torch.no_grad()
def score(model: nn.Module, images: Tensor, labels: Tensor, normalize: Normalize) -> Score:
    """Test a model in evaluation mode on uint8 [N, H, W, C]; the sums are taken in float64."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for start in range(0, len(labels), BATCH):
        wanted = labels[start : start + BATCH]
        logits = model(normalize(images[start : start + BATCH]))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss += nn.functional.cross_entropy(logits, wanted, reduction="sum").double()
        correct += (logits.argmax(1) == wanted).sum()
    n = len(labels)
    return Score(loss.item() / n, correct.item() / n, n)
