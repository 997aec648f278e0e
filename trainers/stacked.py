"""Stacked training: the clients of a round take their local steps at the same time.

It has the place of `trainers.local`, where one client after another trains. The clients are the
lanes of one model (see `trainers.lanes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainers import models
from trainers.data.dataset import Dataset
from trainers.graph import Graphs
from trainers.lane_operations import Operations
from trainers.lanes import Lanes
from trainers.local import LocalTraining, Steps, Trained
from trainers.progress import progress


class StackedTraining:
    """The one model whose lanes are the clients of a round."""

    def __init__(self, data: Dataset, local: LocalTraining, operations: Operations) -> None:
        """Prepare lanes for the draws and the images of `local`, whose graphs take the steps.

        Raises:
            ValueError: lanes cannot train the model.

        """
        self.local = local
        self.config = config = local.config
        self.sampling = local.draws.sampling
        model = models.build(config, data.channels, data.size, data.classes).to(local.device)
        self.lanes = Lanes(config, model, self.sampling.cohort, local.device, operations)
        self.remaining = torch.zeros(len(self.lanes.values), dtype=torch.int64, device=local.device)
        """The local steps [K] that each lane takes in this round."""
        self.phase: tuple[bool, bool] | None = None
        """Statistics frozen, whole layers frozen."""
        self.steps: dict[tuple[bool, bool], Steps] = {}
        """The steps of a GPU, by their phase."""

    def train(
        self,
        round: int,
        clients: Sequence[int],
        server: Tensor,
        velocities: Sequence[Tensor | None],
        *,
        frozen: bool,
        layer_frozen: bool,
    ) -> Iterator[Trained]:
        """Train the clients from the server's state [S]; then yield them in ascending order.

        Each begins with a velocity [T] of its own, or with zero if it is None.
        """
        if self.phase != (frozen, layer_frozen):
            self.phase = (frozen, layer_frozen)
            self.lanes.begin(frozen=frozen, layer_frozen=layer_frozen)
        self.lanes.load(server, velocities)
        taken = [self.sampling.steps[client] for client in clients]
        drawn, lr = self.drawn(round), self.config.lr_in(round)
        if self.local.graphs is None:
            rows = list(zip(*drawn, strict=True))
            yield from self.lanes.train(clients, taken, lambda step: self.batch(rows[step]), lr)
            return
        losses = self.take(drawn, taken, lr, self.local.graphs)
        yield from self.lanes.trained_clients(clients, taken, losses)

    def take(
        self, drawn: Sequence[Tensor], taken: Sequence[int], lr: float, graphs: Graphs
    ) -> Tensor:
        """Take the steps of all lanes with graphs. Return the losses [E, K] before each step."""
        self.remaining.copy_(torch.tensor(taken))
        self.local.lr.fill_(lr)
        assert self.phase is not None
        if self.phase not in self.steps:
            self.steps[self.phase] = self.steps_of(drawn, graphs)
        steps = self.steps[self.phase]
        steps.begin(drawn)
        for _ in range(max(taken)):
            steps.take()
            progress.step()
        return steps.losses[: max(taken)]

    def steps_of(self, drawn: Sequence[Tensor], graphs: Graphs) -> Steps:
        """Return the steps of the current phase, which graphs take."""

        def step(number: Tensor, *row: Tensor) -> Tensor:
            torch.gt(self.remaining, number, out=self.lanes.active)
            return self.lanes.step(*self.batch(row), self.local.lr)

        like = self.lanes.values.new_zeros(len(self.lanes.values))
        return Steps(step, max(self.sampling.steps), drawn, like, graphs)

    def batch(self, row: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return images [K*B, C, H, W], normalized, and labels [K, B] of a row of `drawn`."""
        images, labels = self.local.batch(*row)
        images = self.local.normalize(images)
        if self.lanes.low is not None:
            images = images.to(self.lanes.low.dtype)
        return images, labels.view(len(self.remaining), -1)

    def drawn(self, round: int) -> list[Tensor]:
        """Return the indices [E, K*B] of the steps of all lanes, and with augmentation the rows
        [E, K*B, H] and columns [E, K*B, W] of their crops.
        """
        parts = self.local.sent(*self.local.draws.round(round).stacked())
        return [part.transpose(0, 1).flatten(1, 2) for part in parts]
