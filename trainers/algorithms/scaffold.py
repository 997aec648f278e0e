"""SCAFFOLD (Karimireddy et al., "Stochastic Controlled Averaging", ICML 2020), with option II.

A client i starts at y_i = x and takes K local steps y_i <- y_i - eta_l (g_i(y_i) - c_i + c). Then
c_i^+ = c_i - c + (x - y_i) / (K eta_l). The server takes x <- x + eta_g (a - x), with a the
cohort's average of y_i, and c <- c + sum over the cohort of p_i (c_i^+ - c_i). All c are 0 at
first.

The paper has p_i = 1/N for N clients. Ours is client i's fraction of all samples, as clients are
weighted everywhere, so that c stays the weighted mean of all c_i. Both are equal if clients have
equally many samples.

The correction is a step of its own, after the optimizer's: y_i <- y_i - eta_l (c - c_i). With plain
SGD this is the paper's step. With momentum or Adam, c_i^+ is then the mean of the client's own
directions, because the corrections do not enter the optimizer's state. (NIID-Bench, Li et al. 2022,
does so too.) If a velocity is kept between rounds, these directions hold those of earlier rounds;
that combination is ours. g_i is clipped before.

A client receives c with x, and sends c_i^+ - c_i with y_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.algorithms.algorithm import Algorithm, Turn, move
from trainers.average import Average
from trainers.config import TrainConfig


class Scaffold(Algorithm):
    """FedAvg with control variates."""

    sends_up = 1
    sends_down = 1

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        assert config.server_lr is not None
        self.eta_g = config.server_lr
        self.c = self.server_vector("control")
        self.c_of = self.client_vectors("control")
        self.correction = torch.zeros_like(self.c)
        """c - c_i of the client that trains."""

    def begin_round(self, fractions: Sequence[float], end: int) -> None:
        """Begin to sum p_i (c_i^+ - c_i)."""
        self.change = Average(fractions, self.c[:end])

    def begin_client(self, turn: Turn) -> None:
        """Set c - c_i."""
        if turn.client in self.c_of:
            torch.sub(self.c, self.c_of[turn.client], out=self.correction)
        else:
            self.correction.copy_(self.c)

    def correct_step(self, values: Tensor, lr: float | Tensor) -> None:
        """Step along c - c_i."""
        move(values, self.correction[: len(values)], lr)

    def end_client(self, turn: Turn, values: Tensor) -> None:
        """Replace c_i."""
        end = len(values)
        old = self.c_of.get(turn.client)
        new = torch.zeros_like(self.c) if old is None else old.clone()
        before = new[:end].clone()
        mean = (self.server[:end] - values).div_(turn.steps * turn.lr)
        new[:end] = mean.sub_(self.correction[:end])
        self.c_of[turn.client] = new
        self.change.add(turn.position, new[:end] - before)

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move x and c. With eta_g = 1, x is the average itself."""
        server.lerp_(average, self.eta_g)
        self.c[: len(server)].add_(self.change.total)
