"""Parameters of normalization layers that stay with the clients, apart from all other state."""

from __future__ import annotations

from torch import Tensor

from trainers.config import TrainConfig
from trainers.normalizers import own_parameters
from trainers.state import ClientState
from trainers.vector import Vector


class ClientMix:
    """The parameters named in `NormLayer.own` of each client, if the normalizer keeps a "mix".

    They lie among the parameters of the state vector. The server's never change. If the server
    averages velocities, it does not average theirs.
    """

    def __init__(self, config: TrainConfig, vector: Vector, keeps: str) -> None:
        owned = own_parameters(vector.model) if keeps == "mix" else set()
        self.vector = vector
        self.names = [name for name, p in vector.model.named_parameters() if p in owned]
        self.places = vector.positions(owned)
        self.first = vector.values[self.places]
        """Their first values, which the server keeps."""
        count, device = len(self.places), vector.values.device
        self.values = ClientState("mix", count, device)
        own_velocity = count if config.momentum == "global" else 0
        self.velocities = ClientState("mix_velocity", own_velocity, device)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.names)

    def load(self, client: int) -> None:
        """Copy a client's into the vector, if it has trained before."""
        if client in self.values:
            self.vector.values[self.places] = self.values[client]

    def start(self, client: int, velocity: Tensor) -> None:
        """Set the velocity [P] of a client that begins its round."""
        if self.velocities.length:
            start = self.velocities.get(client)
            velocity[self.places] = start if start is not None else velocity.new_zeros(())

    def keep(self, client: int, values: Tensor, velocity: Tensor) -> None:
        """Store those of a client after its local steps, from its state [S] and velocity [P]."""
        if self:
            self.values[client] = values[self.places]
        if self.velocities.length:
            self.velocities[client] = velocity[self.places]

    def leave(self, server: Tensor) -> None:
        """Give the server's state [S] their first values back, after an average."""
        if self:
            server[self.places] = self.first

    def named(self) -> dict[str, Tensor]:
        """Return copies of those in the vector, by name."""
        model = self.vector.model
        return {name: model.get_parameter(name).detach().clone() for name in self.names}
