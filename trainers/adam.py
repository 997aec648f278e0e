"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) at the client.

m <- beta_1 m + (1 - beta_1) g, v <- beta_2 v + (1 - beta_2) g^2,
w <- w - eta (m / (1 - beta_1^k)) / (sqrt(v / (1 - beta_2^k)) + eps) in a client's k-th step.
The arithmetic is that of `torch.optim`, operation by operation. AdamW first takes
w <- (1 - eta lambda) w; with Adam, lambda w is in the gradient.
"""

from __future__ import annotations

from torch import Tensor

from trainers.config import TrainConfig


class Adam:
    """The state of the client that trains. It is empty when a client begins its round."""

    def __init__(self, config: TrainConfig, length: int, like: Tensor) -> None:
        assert config.adam_beta1 is not None
        assert config.adam_beta2 is not None
        assert config.adam_eps is not None
        self.beta1, self.beta2, self.eps = config.adam_beta1, config.adam_beta2, config.adam_eps
        self.decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        self.m = like.new_zeros(length)
        self.v = like.new_zeros(length)
        self.count = like.new_zeros(())
        """k on the device, which graphs read."""
        self.number = 0
        """k on the host."""

    def start(self) -> None:
        """Begin a client's round."""
        self.m.zero_()
        self.v.zero_()
        self.count.zero_()
        self.number = 0

    def step(self, values: Tensor, gradient: Tensor, decayed: int, lr: float | Tensor) -> None:
        """Step along the gradient [T]. AdamW decays the first `decayed` values.

        With a learning rate on the device, the count is read there too, as by a torch optimizer
        that is `capturable`.
        """
        if self.decay > 0:
            values[:decayed].mul_(1 - lr * self.decay)
        m, v = self.m[: len(gradient)], self.v[: len(gradient)]
        m.lerp_(gradient, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        if isinstance(lr, Tensor):
            self.count.add_(1)
            size = (lr / (1 - self.beta1**self.count)).neg()
            root = (1 - self.beta2**self.count).sqrt()
            values.addcdiv_(m, (v.sqrt() / (root * size)).add_(self.eps / size))
            return
        self.number += 1
        root = (1 - self.beta2**self.number) ** 0.5
        denominator = (v.sqrt() / root).add_(self.eps)
        values.addcdiv_(m, denominator, value=-(lr / (1 - self.beta1**self.number)))
