"""K clients of one trial, trained at the same time in one model.

A lane is one client's model. The K lanes are the rows of a matrix [K, P], each laid out as
`Vector` lays out one model: [weights | scales and shifts | statistics]. The parameters of the
model's layers are windows of that matrix, [K, ...]. Batches are lane-major, [K*B, C, H, W].

The loss is the mean over a lane's batch, summed over the lanes, so that the gradient of a row is
that of its client alone. A lane that has taken all its steps is kept as it is by `torch.where`,
never by a factor of zero, which would turn an infinite number into NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from trainers import lane_layers
from trainers.config import TrainConfig
from trainers.lane_layers import LaneBatchNorm, LaneConv2d, refusal
from trainers.lane_operations import Lr, Operations
from trainers.local import Trained
from trainers.normalizers import find, norm_parameters
from trainers.progress import progress
from trainers.vector import Vector

__all__ = ["Batch", "Lanes", "refusal"]

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Returns a step's images [K*B, C, H, W], normalized, and its labels [K, B]; steps count from 0.
A lane that has taken all its steps gets any images of the same shape.
"""


class Lanes:
    """A model of K lanes, their gradients and their velocities."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        lanes: int,
        device: torch.device,
        operations: Operations,
    ) -> None:
        """Exchange the layers of `model`, a model of one client that nothing else uses.

        Raises:
            ValueError: lanes cannot train the model, or its clients keep layers of their own.

        """
        if reason := refusal(model):
            raise ValueError(reason)
        if find(config.normalizer).keeps != "nothing":
            raise ValueError(f"clients keep layers of {config.normalizer}, which lanes do not")
        self.config = config
        self.operations = operations
        self.layout = layout = Vector(model, device)
        self.model = model
        self.length = len(self.layout.gradient)
        self.values = layout.values.expand(lanes, -1).clone()
        self.gradient = self.values.new_zeros(lanes, self.length)
        has_velocity = config.momentum_factor is not None
        self.velocity = self.values.new_zeros(lanes, self.length if has_velocity else 0)
        self.active = torch.ones(lanes, dtype=torch.bool, device=device)
        self.trained = self.length
        """End of the part of a row that is trained in this phase."""

        scales = norm_parameters(model)
        affine = {name for name, p in model.named_parameters() if p in scales}
        names = [name for name, _ in model.named_parameters()]
        tensors = windows(self.values, layout)
        self.low: Tensor | None = None
        """The weights in bfloat16 [K, weights_end], if the operations cast them once per step."""
        if config.dtype == "bfloat16" and operations.casts:
            self.low = self.values[:, : layout.weights_end].to(torch.bfloat16)
            cast = windows(self.low, layout).items()
            tensors |= {name: t for name, t in cast if "parametrizations" not in name}
        self.parameters = {name: nn.Parameter(tensors[name]) for name in names}
        """Windows [K, ...] of the parameters, by name, in the model's own order."""
        self.slopes = {n: t for n, t in windows(self.gradient, layout).items() if n in names}
        """Windows [K, ...] of the gradients, by name."""
        self.affine = [self.parameters[name] for name in names if name in affine]
        shared = lane_layers.Lanes(operations, self.active, tensors | self.parameters)
        lane_layers.exchange(model, shared)
        layers = list(model.modules())
        self.norms = [layer for layer in layers if isinstance(layer, LaneBatchNorm)]
        convolutions = [layer for layer in layers if isinstance(layer, LaneConv2d)]
        by_parameter = {id(p): self.slopes[name] for name, p in self.parameters.items()}
        weights = [layer.standardized for layer in convolutions]
        self.rows = [(w, by_parameter[id(w)]) for w in weights if w is not None]
        """The weights that are standardized before use, with their gradients."""
        model.train()

    def begin(self, *, frozen: bool, layer_frozen: bool) -> None:
        """Set the phase: statistics that are constants, and scales and shifts that are too."""
        for norm in self.norms:
            norm.frozen = frozen
        for parameter in self.affine:
            parameter.requires_grad_(not layer_frozen)
        self.trained = self.layout.weights_end if layer_frozen else self.length
        self.gradient[:, self.trained :].zero_()

    def load(self, server: Tensor, velocities: Sequence[Tensor | None]) -> None:
        """Begin a round: each lane starts from the server's state [P].

        Each lane has a velocity [T] of its own to go on from, or None to start at zero.
        """
        self.values.copy_(server.expand_as(self.values))
        if self.velocity.shape[1]:
            for row, velocity in zip(self.velocity, velocities, strict=True):
                row.zero_() if velocity is None else row.copy_(velocity)

    def train(
        self,
        clients: Sequence[int],
        steps: Sequence[int],
        batch: Batch,
        lr: Lr,
    ) -> Iterator[Trained]:
        """Take all local steps of the cohort, then yield its clients in ascending order.

        Call `begin` and `load` first. A lane takes as many steps as `steps` says.
        """
        remaining = torch.tensor(steps, device=self.active.device)
        losses = []
        for step in range(max(steps)):
            torch.gt(remaining, step, out=self.active)
            losses.append(self.step(*batch(step), lr))
            progress.step()
        yield from self.trained_clients(clients, steps, torch.stack(losses))

    def trained_clients(
        self, clients: Sequence[int], steps: Sequence[int], losses: Tensor
    ) -> Iterator[Trained]:
        """Yield the clients after their steps, in ascending order. `losses` are [E, K]."""
        each = losses.double().T.contiguous()
        for position, (client, taken) in enumerate(zip(clients, steps, strict=True)):
            mean = each[position, :taken].mean()
            yield Trained(position, client, self.values[position], self.velocity[position], mean)

    def step(self, images: Tensor, labels: Tensor, lr: Lr) -> Tensor:
        """Take one local step of the active lanes. Return the losses [K] before it."""
        operations = self.operations
        if self.low is not None:
            self.low.copy_(self.values[:, : self.low.shape[1]])
        with self.precision():
            logits = self.model(images)
        losses = operations.cross_entropy(logits.to(self.values.dtype), labels)
        named = {name: p for name, p in self.parameters.items() if p.requires_grad}
        slopes = torch.autograd.grad(losses.sum(), list(named.values()))
        self.descend([self.slopes[name] for name in named], slopes, lr)
        return losses.detach()

    @torch.no_grad()
    def descend(self, parts: list[Tensor], slopes: Sequence[Tensor], lr: Lr) -> None:
        """Store the gradients, clip them, add the weight decay, and step."""
        config = self.config
        torch._foreach_copy_(parts, list(slopes))
        if config.row_bound:
            for weight, gradient in self.rows:
                self.operations.clip_rows(weight, gradient, config.row_bound)
        if config.clip_norm > 0:
            self.operations.clip(self.gradient, parts, config.clip_norm)
        momentum = config.momentum_factor
        self.operations.descend(
            self.values,
            self.gradient,
            None if momentum is None else self.velocity,
            self.active,
            lr,
            decay=config.weight_decay,
            decayed=self.trained if config.decay_norm else self.layout.weights_end,
            momentum=momentum or 0.0,
            trained=self.trained,
        )

    def precision(self) -> AbstractContextManager[object]:
        """Use autocast for bfloat16, unless the operations cast the weights themselves."""
        if self.config.dtype == "bfloat16" and self.low is None:
            return torch.autocast(self.values.device.type, torch.bfloat16)
        return nullcontext()


def windows(matrix: Tensor, layout: Vector) -> dict[str, Tensor]:
    """Return the windows [K, ...] of a matrix of lanes, by name, as far as it reaches.

    Windows of four dimensions are channels last. Each has a version counter of its own: the forward
    pass writes statistics into the matrix, and backward would refuse the weights next to them.
    """
    made = {}
    for name, (offset, shape) in layout.places.items():
        if offset >= matrix.shape[1]:
            continue
        flat = matrix[:, offset : offset + shape.numel()]
        if len(shape) == 4:
            o, i, h, w = shape
            window = flat.view(-1, o, h, w, i).permute(0, 1, 4, 2, 3)
        else:
            window = flat.view(-1, *shape)
        made[name] = window.data
    return made
