"""The local training of Flower's clients: a plain PyTorch loop with the engine's model and data."""

from __future__ import annotations

import torch
from torch import nn

from tests.benchmarks.cases import built, configured, dataset
from trainers.data.batches import Normalize, local_batches
from trainers.partition import partition


class Workshop:
    """The objects that an actor's process reuses for its clients: data, partition, one model."""

    def __init__(self, case: str, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.config = configured(case)
        self.device = torch.device(device)
        made = dataset(case)
        self.train = made.to(self.device).train
        self.samples = partition(made.train.labels.numpy(), self.config)
        self.normalize = Normalize(made, torch.float32, self.device)
        model = built(self.config, made).to(self.device)
        self.model = model.to(memory_format=torch.channels_last).train()

    def fit(self, round: int, client: int) -> float:
        """Train E local steps from the model's present state. Return the mean loss."""
        config, model = self.config, self.model
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum_factor or 0.0
        )
        batches = torch.from_numpy(local_batches(self.samples[client], config, round, client))
        total = torch.zeros((), device=self.device)
        for batch in batches.to(self.device):
            optimizer.zero_grad()
            logits = model(self.normalize(self.train.images[batch]))
            loss = nn.functional.cross_entropy(logits, self.train.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # unannotated
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            total += loss.detach()
        return total.item() / len(batches)
