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

    def __init__(
        self, data: Dataset, local: LocalTraining, operations: Operations, graphs: Graphs | None
    ) -> None:
        """Prepare the draws, images and phases that `local` has. `graphs` take steps on a GPU.

        Raises:
            ValueError: lanes cannot train the model.

        """
        self.local = local
        self.config = config = local.config
        self.sampling = local.draws.sampling
        model = models.build(config, data.channels, data.size, data.classes).to(local.device)
        self.lanes = Lanes(config, model, self.sampling.cohort, local.device, operations)
        self.graphs = graphs
        self.lr = local.lr
        """The learning rate on the device, which graphs read."""
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
        losses = self.take(round, taken, self.phase)
        for position, (client, count) in enumerate(zip(clients, taken, strict=True)):
            values, velocity = self.lanes.values[position], self.lanes.velocity[position]
            mean = losses[:count, position].double().mean()
            yield Trained(position, client, values, velocity, mean)

    def take(self, round: int, taken: Sequence[int], phase: tuple[bool, bool]) -> Tensor:
        """Take the steps of all lanes. Return the losses [E, K] before each step."""
        drawn, most = self.drawn(round), max(taken)
        lr = self.config.lr_in(round)
        self.remaining.copy_(torch.tensor(taken))
        if self.graphs is None:
            losses = []
            for step, row in enumerate(zip(*drawn, strict=True)):
                torch.gt(self.remaining, step, out=self.lanes.active)
                losses.append(self.step(row, lr))
                progress.step()
            return torch.stack(losses)
        self.lr.fill_(lr)
        if phase not in self.steps:
            self.steps[phase] = self.steps_of(drawn, self.graphs)
        steps = self.steps[phase]
        steps.begin(drawn)
        for _ in range(most):
            steps.take()
            progress.step()
        return steps.losses[:most]

    def steps_of(self, drawn: Sequence[Tensor], graphs: Graphs) -> Steps:
        """Return the steps of the current phase, which graphs take."""

        def step(number: Tensor, *row: Tensor) -> Tensor:
            torch.gt(self.remaining, number, out=self.lanes.active)
            return self.step(row, self.lr)

        like = self.lanes.values.new_zeros(len(self.lanes.values))
        return Steps(step, max(self.sampling.steps), drawn, like, graphs)

    def step(self, row: Sequence[Tensor], lr: float | Tensor) -> Tensor:
        """Take one step of the active lanes on the batch of a row. Return their losses [K]."""
        images, labels = self.local.batch(*row)
        images = self.local.normalize(images)
        return self.lanes.step(images, labels.view(len(self.remaining), -1), lr)

    def drawn(self, round: int) -> list[Tensor]:
        """Return what the steps of all lanes read, a row for each step: the samples [E, K*B], and
        the rows [E, K*B, H] and columns [E, K*B, W] of crops if images are augmented.
        """
        indices, offsets = self.local.draws.round(round).stacked()
        samples = self.local.send(indices).long().transpose(0, 1).flatten(1)
        if offsets is None:
            return [samples]
        rows, columns = self.local.crops(self.local.send(offsets))
        return [samples, *(part.transpose(0, 1).flatten(1, 2) for part in (rows, columns))]
