"""SGD momentum at the client, and the velocity v between rounds.

v <- beta v + (g + lambda w), w <- w - eta v. In torch's convention a decaying eta does not change
v.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from trainers.average import Average
from trainers.config import TrainConfig
from trainers.state import ClientState


class Momentum:
    """The velocity v of the client that trains.

    none: plain SGD, no v.
    reset: v starts at zero in every client's round, the usual practice.
    local: a client goes on from its own last v, zero where it has none.
    global: the server averages the final v of the parameters that it averages, by training samples,
    and every client starts from that; what stays with the client (FedBN's gamma and beta) keeps its
    own v there.
    """

    def __init__(self, config: TrainConfig, length: int, shared: int, like: Tensor) -> None:
        self.kind = config.momentum
        self.factor = config.momentum_factor
        self.shared = min(shared, length)
        """End of the part of v that the server averages, if momentum is global."""
        self.velocity = like.new_zeros(length if self.factor is not None else 0)
        self.server = like.new_zeros(self.shared if self.kind == "global" else 0)
        keeps = self.kind in ("local", "global")
        own = len(self.velocity) - self._own if keeps else 0
        self.kept = ClientState("velocity", own, like.device)
        """Each sampled client's own last v: all of it, or the part that the server does not
        average."""
        self._average: Average | None = None

    def begin_round(self, weights: Sequence[float], trained: int) -> None:
        """Begin a round in which clients of these weights train the first `trained` parameters."""
        if self.kind == "global":
            self._average = Average(weights, self.server[:trained])

    def start(self, client: int) -> None:
        """Set v for a client that begins its round."""
        if self.kind == "reset" or (self.kind == "local" and client not in self.kept):
            self.velocity.zero_()
        if self.kind == "global":
            self.velocity[: self.shared].copy_(self.server)
            self.velocity[self.shared :].zero_()
        if client in self.kept:
            self.velocity[self._own :].copy_(self.kept[client])

    def first(self, client: int) -> Tensor | None:
        """Return v of a client that begins its round, if all clients average all parameters.

        None stands for zero.
        """
        return self.server if self.kind == "global" else self.kept.get(client)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the direction [P] of the step, which is subtracted: v, or the gradient itself.

        Every step has the same operations: v starts at zero, and beta 0 + g = g.
        """
        if self.factor is None:
            return gradient
        return self.velocity[: len(gradient)].mul_(self.factor).add_(gradient)

    def end(self, client: int, position: int, velocity: Tensor) -> None:
        """Store v of a client that ends its round, at this position of the cohort."""
        if self._average is not None:
            self._average.add(position, velocity[: len(self._average.total)])
        if self.kept.length:
            self.kept[client] = velocity[self._own :].clone()

    def end_round(self) -> None:
        """Set the server's velocity to the cohort's average, if it is global."""
        if self._average is not None:
            self.server[: len(self._average.total)].copy_(self._average.total)
            self._average = None

    @property
    def _own(self) -> int:
        """Index of the first element of v that stays with the client."""
        return self.shared if self.kind == "global" else 0

    def state(self) -> dict[str, Tensor]:
        """Return the clients' own velocities, and the server's if it is global."""
        return self.kept.state() | ({"velocity": self.server} if self.kind == "global" else {})

    def lengths(self) -> dict[str, int]:
        """Return the expected length of each tensor of a saved state, by name."""
        return ({"velocity": self.shared} if self.kind == "global" else {}) | self.kept.lengths()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the velocities of a saved state."""
        if self.kind == "global":
            self.server.copy_(tensors["velocity"])
        self.kept.restore(tensors)
