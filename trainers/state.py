"""The parts of a trial that a snapshot saves, and the check of a snapshot against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainers.engines import Unfit


class Stateful(Protocol):
    """A part of a trial whose tensors the next round needs.

    Names are unique among a trial's parts. A name such as "own.3" is of client 3.
    """

    def state(self) -> dict[str, Tensor]:
        """Return the part's tensors by name, without copying them."""
        ...

    def lengths(self) -> dict[str, int]:
        """Return the expected length of each tensor by name.

        A name that ends in "." stands for one tensor per client ("own." for "own.3").
        """
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the part's tensors from a saved state that has passed the check."""
        ...


class ServerState:
    """The server's state vector [S]."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def state(self) -> dict[str, Tensor]:
        """Return the vector."""
        return {"server": self.values}

    def lengths(self) -> dict[str, int]:
        """Return the vector's length."""
        return {"server": len(self.values)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved vector into this one."""
        self.values.copy_(tensors["server"])


class ClientState(dict[int, Tensor]):
    """One tensor [length] per client, by client; a client without one is not in it."""

    def __init__(self, kind: str, length: int, device: torch.device) -> None:
        super().__init__()
        self.prefix = f"{kind}."
        self.length = length
        self.device = device

    def state(self) -> dict[str, Tensor]:
        """Return the clients' tensors."""
        return {f"{self.prefix}{client}": tensor for client, tensor in self.items()}

    def lengths(self) -> dict[str, int]:
        """Return the length of each client's tensor; nothing if it is 0."""
        return {self.prefix: self.length} if self.length else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the clients' tensors by copies of the saved ones."""
        self.clear()
        for name, tensor in tensors.items():
            if name.startswith(self.prefix):
                client = int(name.removeprefix(self.prefix))
                self[client] = tensor.to(self.device, copy=True)


def check(
    tensors: Mapping[str, Tensor], parts: Sequence[Stateful], clients: int, dtype: torch.dtype
) -> None:
    """Refuse saved tensors that a copy would stretch, convert or leave out in part.

    Raises:
        Unfit: a tensor is missing, unknown, or of another shape or type.

    """
    lengths = {name: length for part in parts for name, length in part.lengths().items()}
    if missing := [n for n in lengths if not n.endswith(".") and n not in tensors]:
        raise Unfit(f"it has no {missing[0]}")
    for name, tensor in tensors.items():
        kind, dot, client = name.partition(".")
        known = not dot or (client.isdecimal() and int(client) < clients)
        length = lengths.get(kind + dot) if known else None
        if length is None:
            raise Unfit(f"nothing of this trial is called {name}")
        if tensor.shape != (length,) or tensor.dtype != dtype:
            raise Unfit(f"its {name} is {tensor.dtype} {list(tensor.shape)}, not [{length}]")
