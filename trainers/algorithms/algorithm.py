"""The interface of an algorithm: hooks around the local steps, and the server's step.

A round t of a cohort S_t, with the server's averaged parameters x:

1. `begin_round`.
2. For each client m of S_t: `begin_client`; K local steps; `end_client`. A local step computes the
   gradient g of the loss and clips it. Then `correct_gradient` may change g, which is not clipped
   again. The optimizer adds the weight decay and steps. Then `correct_step` may move the
   parameters once more.
3. `step`, with the average a = sum over m of (n_m / N) x_m of the cohort's parameters.

All of them see only the parameters that are trained in the round and averaged: [weights | scales
and shifts] before a freeze of whole layers, and [weights] after it or if clients keep their own
layers. Running statistics are in none of the hooks. They are averaged by samples in every
algorithm, as in FedAvg, or stay with the clients, or are frozen. So no control variate, proximal
term or adaptive step touches them.

Most of the papers have plain SGD at the client. With momentum, the velocity v holds what
`correct_gradient` adds, and not what `correct_step` moves. A v that is kept between rounds
(momentum "local" or "global") is treated as in FedAvg: the server averages a global v, and no hook
sees it.

On a GPU, the local steps are launched as CUDA graphs. So `correct_gradient` and `correct_step` read
and write tensors that stay, never wait for the device, and use no number that changes between two
calls. `begin_client` may fill such tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainers.config import TrainConfig
from trainers.state import ClientState


@dataclass(frozen=True)
class Turn:
    """A client's part in a round."""

    client: int
    position: int
    """Its place in the ascending cohort."""
    steps: int
    """K, its local steps."""
    lr: float
    """eta, its learning rate in this round."""


class Algorithm:
    """The base of all algorithms. Without changes, it is FedAvg."""

    sends_up = 0
    """The vectors, as long as the averaged parameters, that a client sends besides its model."""
    sends_down = 0
    """The vectors that a client receives besides the server's model."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        """Begin with the server's averaged parameters x [P].

        This tensor always holds the current x. It changes in `step` alone.
        """
        self.config = config
        self.server = server
        self._server_vectors: dict[str, Tensor] = {}
        self._client_vectors: list[ClientState] = []

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse a configuration before its data are used. The trial then fails as `bad_data`.

        A key of another algorithm, such as `server_lr`, is None if a plan does not give it.

        Raises:
            ValueError: the algorithm cannot train this configuration; the message says why.

        """

    def server_vector(self, name: str, value: float = 0.0) -> Tensor:
        """Return a vector [P] of the server, filled with a value. Snapshots save it."""
        vector = self.server.new_full(self.server.shape, value)
        self._server_vectors[f"algorithm_{name}"] = vector
        return vector

    def client_vectors(self, name: str) -> ClientState:
        """Return an empty mapping from clients to vectors [P]. Snapshots save it."""
        vectors = ClientState(f"algorithm_{name}", len(self.server), self.server.device)
        self._client_vectors.append(vectors)
        return vectors

    def begin_round(self, fractions: Sequence[float], end: int) -> None:
        """Begin a round, in which the first `end` parameters are trained.

        `fractions` are n_m / N of the cohort's clients, ascending, with N the samples of all
        clients. They sum to 1 if all of them take part.
        """

    def begin_client(self, turn: Turn) -> None:
        """Prepare for a client's local steps, which begin at x."""

    def correct_gradient(self, gradient: Tensor, values: Tensor) -> None:
        """Change the gradient [end] of a local step in place. The parameters are `values`."""

    def correct_step(self, values: Tensor, lr: float | Tensor) -> None:
        """Change the parameters [end] after a local step in place; see `move`."""

    def end_client(self, turn: Turn, values: Tensor) -> None:
        """Take a client's parameters [end] after its local steps.

        Clients come in any order. What depends on their order must use `trainers.average.Average`.
        """

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move the server's parameters [end] in place, given the cohort's average [end]."""
        server.copy_(average)

    @classmethod
    def overrides(cls, *hooks: str) -> bool:
        """Return whether the algorithm has one of these hooks. The base's do nothing."""
        return any(getattr(cls, hook) is not getattr(Algorithm, hook) for hook in hooks)

    def state(self) -> dict[str, Tensor]:
        """Return the vectors of the server and of the clients."""
        tensors = dict(self._server_vectors)
        for vectors in self._client_vectors:
            tensors |= vectors.state()
        return tensors

    def lengths(self) -> dict[str, int]:
        """Return the expected length of each vector."""
        lengths = {name: len(vector) for name, vector in self._server_vectors.items()}
        for vectors in self._client_vectors:
            lengths |= vectors.lengths()
        return lengths

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the vectors of a saved state."""
        for name, vector in self._server_vectors.items():
            vector.copy_(tensors[name])
        for vectors in self._client_vectors:
            vectors.restore(tensors)

    def changed(self, clients: Collection[int]) -> list[Tensor]:
        """Return the vectors that a round of these clients may change. They must be finite."""
        kept = [v[client] for v in self._client_vectors for client in clients if client in v]
        return [*self._server_vectors.values(), *kept]


OF_CLIENTS = ("begin_client", "correct_gradient", "correct_step", "end_client")
"""The hooks around the local steps of one client."""


def move(values: Tensor, direction: Tensor, lr: float | Tensor) -> None:
    """Subtract lr times a direction. A rate that is a tensor may change between two replays."""
    if isinstance(lr, Tensor):
        values.addcmul_(direction, lr, value=-1)
    else:
        values.add_(direction, alpha=-lr)
