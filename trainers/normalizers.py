"""Normalizers: one registry, each with its formula, source and treatment in FedAvg.

x is [B, C, H, W]; E and Var are taken over the named axes, Var biased; eps = 1e-5; scale gamma and
shift beta are per channel, 1 and 0 at first. "Averaged" means by training samples, as the weights.
Unless said otherwise nothing is kept between batches, gamma and beta are averaged, and the test
uses the average.

Other packages add normalizers as entry points of the group `fedsweep.normalizers`: each names a
`Normalizer`, whose layers are torch's own or derive from `NormLayer`. Their floating-point buffers
are state of the model and must be written in place; every client starts with the initial
values of their integer ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrizations, parametrize

from trainers.config import NORMALIZER, TrainConfig
from trainers.own_normalizers import OWN, Keeps


def leave(_conv: nn.Conv2d) -> None:
    """Leave a convolution unchanged."""


@dataclass(frozen=True)
class Normalizer:
    """A normalizer: its layer, its change to the convolution, and the state that clients keep."""

    layer: Callable[[int, TrainConfig], nn.Module]
    """Makes the layer for so many channels."""
    convolution: Callable[[nn.Conv2d], object] = leave
    """Reparametrizes a convolution in place, after its initial weights are set. Output layers,
    which have a bias, are left unchanged.
    """
    keeps: Keeps = "nothing"
    """State that stays with the client, out of the average: nothing, the layer's buffers, or its
    buffers and parameters, or the parameters in `NormLayer.own`. Such clients have no common model.
    Each client of a round's cohort is tested on the whole test set, and the results are weighted by
    training samples. HBN's test depends on no client's mixture, so that its server is tested."""


class NormLayer(nn.Module):
    """The base of normalization layers that torch does not have.

    Its own parameters count as scale and shift, its own floating-point buffers as statistics.
    """

    own: tuple[str, ...] = ()
    """The names of the parameters that stay with the client if the normalizer keeps a "mix"."""

    def begin_round(self) -> None:
        """Prepare for a client's local steps. The state is the server's, and the client's own."""

    def end_round(self) -> None:
        """Change the averaged state of the server at the end of a round."""


class BatchNorm(nn.BatchNorm2d):
    """Torch's BN, which also accepts one value per channel.

    A batch of one 1x1 map has no variance. It is normalized with the running statistics, and leaves
    them unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        # The step count only matters for momentum=None; without it there is no integer to carry.
        self.num_batches_tracked = None

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # To a dict that names no version torch would add that count.
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "version": 2}, *rest)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class JointBatchNorm(BatchNorm):
    """BN whose first local step of a round uses the statistics of the whole cohort.

    `trainers.joint` sets `statistics` for that step.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.statistics: Callable[[JointBatchNorm, Tensor], tuple[Tensor, Tensor]] | None = None
        """Returns the mean and variance [C] for a batch [B, C, H, W]; None for the batch's own."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        if self.statistics is None:
            return super().forward(x)
        exact = x.to(self.weight.dtype)
        mean, variance = self.statistics(self, exact)
        scale = self.weight * (variance + self.eps).rsqrt()
        y = (exact - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` values per channel, as torch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class InstanceNorm(nn.InstanceNorm2d):
    """Torch's IN with scale and shift, as GN with a group for each channel; a 1x1 map, which it
    would erase, is only scaled and shifted.

    Torch's own instance_norm gives wrong gradients on a CPU for one image in channels-last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        if x.shape[2] * x.shape[3] == 1:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return nn.functional.group_norm(x, len(self.weight), self.weight, self.bias, self.eps)


class Shift(NormLayer):
    """y = x + beta: the bias that a convolution without normalized activations needs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return x + self.bias[:, None, None]


class FederatedBatchNorm(NormLayer):
    """BN with the server's statistics, as constants in every local step.

    The sums over a client's batches of the mean and the mean square are averaged by the server,
    which then moves its statistics by a tenth towards theirs.
    """

    rate = 0.1
    """The part of a round's statistics in the new ones."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("sum_of_means", torch.zeros(channels))
        self.register_buffer("sum_of_squares", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros(1))

    running_mean: Tensor
    running_var: Tensor
    sum_of_means: Tensor
    sum_of_squares: Tensor
    batches: Tensor

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        if self.training:
            with torch.no_grad():
                exact = x.to(self.sum_of_means.dtype)
                self.sum_of_means.add_(exact.mean((0, 2, 3)))
                self.sum_of_squares.add_(exact.square().mean((0, 2, 3)))
                self.batches.add_(1)
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    @torch.no_grad()
    def end_round(self) -> None:
        """Move the statistics towards those of the round, and begin new sums."""
        mean = self.sum_of_means / self.batches
        variance = (self.sum_of_squares / self.batches - mean.square()).clamp(min=0)
        self.running_mean.mul_(1 - self.rate).add_(mean, alpha=self.rate)
        self.running_var.mul_(1 - self.rate).add_(variance, alpha=self.rate)
        for sums in (self.sum_of_means, self.sum_of_squares, self.batches):
            sums.zero_()


class HybridBatchNorm(BatchNorm, NormLayer):
    """BN with a mixture of the batch's statistics and constants of the server, learned by channel.

    The constants are the running statistics, which no step changes (see `trainers.gathered`).
    """

    own = ("mix",)

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = nn.Parameter(torch.zeros(channels))
        self.note: Callable[[HybridBatchNorm, tuple[Tensor, Tensor]], None] | None = None
        """Is called with the mean and variance [C] of each training batch, if it is set."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training or x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        exact = x.to(self.running_mean.dtype)
        part = self.mix.sigmoid()
        mean = (1 - part) * self.running_mean + part * exact.mean((0, 2, 3))
        batch_variance = exact.var((0, 2, 3), correction=0)
        variance = (1 - part) * self.running_var + part * batch_variance
        if self.note is not None:
            self.note(self, (mean, variance))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return exact * scale[:, None, None] + shift[:, None, None]


EMA = 0.1
"""The weight of a batch in the running statistics, torch's usual."""

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""Brings the variance of a rectified unit Gaussian back to 1 (Brock et al. 2021)."""


LEAST_SQUARE = 1e-4
"""The least sum of squares of a centered row of a weight (Brock et al. 2021)."""

LEAST_WEIGHT, LEAST_GRADIENT = 1e-3, 1e-6
"""The least lengths of a row and of its gradient in adaptive clipping (Brock et al. 2021)."""


class StandardizedWeight(NormLayer):
    """W^ = g (W - mu) / (sigma sqrt(fan_in)) for each output channel, g learned."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((outputs, 1, 1, 1), RELU_GAIN))

    def forward(self, weight: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return standardize(weight, self.gain)


def standardize(weight: Tensor, gain: Tensor) -> Tensor:
    """Return g (W - mu) / (sigma sqrt(fan_in)) by row of W [..., Co, Ci, k, k], g [..., Co, 1, 1,
    1].
    """
    centered = weight - weight.mean((-3, -2, -1), keepdim=True)
    # sigma^2 fan_in is the centered row's sum of squares.
    square = centered.square().sum((-3, -2, -1), keepdim=True).clamp(min=LEAST_SQUARE)
    return gain * centered * square.rsqrt()


def batch_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """BN (Ioffe and Szegedy 2015): y = gamma (x - E[x]) / sqrt(Var[x] + eps) + beta over B, H, W.

    In FedAvg: gamma, beta and the running statistics (EMA 0.1, Var unbiased, as torch) are
    averaged by training samples, a plain weighted mean of variances. The test uses the average.
    FedBN (Li et al., ICLR 2021): gamma, beta and the running statistics stay with the client; the
    rest is averaged. SiloBN (Andreux et al. 2020): only the running statistics stay with it.
    """
    return BatchNorm(channels)


def fixed_batch_norm(channels: int, config: TrainConfig) -> nn.Module:
    """FIXBN (Zhong, Chen and Chao, arXiv 2303.06530): BN in rounds 1..T*, frozen afterwards.

    After T* the aggregated running mean and variance are constants, in training and in the test.
    They are carried over and never averaged again. gamma and beta are still trained (freeze =
    "statistics"), or are constants too (freeze = "layer").
    """
    return batch_norm(channels, config)


def group_norm(channels: int, config: TrainConfig) -> nn.Module:
    """GN (Wu and He 2018): as BN, with E and Var over the C/G channels of a group, H and W."""
    assert config.gn_groups is not None
    return nn.GroupNorm(config.gn_groups, channels)


def layer_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """LN (Ba et al. 2016), as the field takes it for images: E and Var over C, H, W (GN with one
    group), gamma and beta per channel.
    """
    return nn.GroupNorm(1, channels)


def instance_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """IN (Ulyanov et al. 2016): E and Var over H, W. For a 1x1 map, y = gamma x + beta."""
    return InstanceNorm(channels)


def federated_batch_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """FBN (Guerraoui et al. 2024): y = gamma (x - m) / sqrt(v + eps) + beta with the server's m, v.

    m and v are constants in a round, for all clients. The server averages the clients' E[x] and
    E[x^2] of all local batches by training samples, M and S. Then m <- 0.9 m + 0.1 M and v <- 0.9 v
    + 0.1 (S - M^2), which includes the variance between batches and clients. At first m = 0, v = 1.
    """
    return FederatedBatchNorm(channels)


def hybrid_batch_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """HBN (Chen et al., ICML 2025): BN with E = (1 - a) m + a E[x], Var = (1 - a) v + a Var[x].

    a = sigmoid(w) for each channel; w = 0 at first, is trained and stays with the client. m and v
    are constants of the server in a round, 0 and 1 at first. The server moves them by 0.002 towards
    the mixed statistics of one batch of each client of the cohort, taken before the local steps.
    The test uses such statistics of the new average alone, for all clients (`trainers.gathered`).
    """
    return HybridBatchNorm(channels)


def joint_batch_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """FedTAN (Wang, Shi and Chang 2023): BN with joint statistics in a round's first local step.

    In that step mean = sum p_m E_m[x] and variance = sum p_m E_m[(x - mean)^2] over the cohort,
    p_m = n_m / N. In the backward pass the gradients with respect to them are averaged with p_m
    too. So client m's gradient is (1 / p_m) dF / dw_m, with F = sum p_m F_m and w_m its own copy of
    the weights. It clips and steps with its own gradient. Its other steps are BN's. What is
    averaged and the test are BN's too. Ours: the first step moves the running statistics of all
    clients by a tenth towards the joint ones (the variance unbiased, over all clients' values).
    """
    return JointBatchNorm(channels)


def shift(channels: int, _config: TrainConfig) -> nn.Module:
    """No normalized activations: y = x + beta, the convolution's bias, averaged like a weight."""
    return Shift(channels)


def weight_norm(conv: nn.Conv2d) -> object:
    """WN (Salimans and Kingma 2016): W = g v / |v| for each output channel; y = W * x + beta.

    Torch's parametrization of every convolution, g = |v| at first. In FedAvg g, v and beta are
    averaged, not W; g and beta count as scale and shift.
    """
    return parametrizations.weight_norm(conv)


def standardize_weight(conv: nn.Conv2d) -> object:
    """WS, as FedWon (Zhuang and Lyu 2024) after Brock et al. 2021: no normalized activations,
    W^ = g (W - mu) / (sigma sqrt(fan_in)) for each output channel; y = W^ * x + beta.

    g starts at sqrt(2 / (1 - 1/pi)), the gain of ReLU, and is learned. In FedAvg g, W and beta are
    averaged; g and beta count as scale and shift. W's gradient is clipped by row (`clip_rows`).
    """
    parametrization = StandardizedWeight(conv.out_channels)
    return parametrize.register_parametrization(conv, "weight", parametrization)


OURS: dict[str, Normalizer] = {
    own.name: Normalizer(globals()[own.layer], globals()[own.convolution], own.keeps) for own in OWN
}
"""Our own normalizers, from the functions above."""


def find(name: str) -> Normalizer:
    """One of ours, or another package's.

    Raises:
        ValueError: no installed package offers it, or what it offers is no `Normalizer`.

    """
    if name in OURS:
        return OURS[name]
    loaded = NORMALIZER.load(name)
    if not isinstance(loaded, Normalizer) or loaded.keeps not in get_args(Keeps):
        point = NORMALIZER.offered(name)
        value = point.value if point is not None else name
        raise ValueError(
            f"{value}, offered as {name}, is no Normalizer (with a `keeps` of those known)"
        )
    return loaded


TYPES: tuple[type[nn.Module], ...] = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    NormLayer,
)
"""Types of normalization layers. A layer is recognized by its type, because a name can lie."""


def norm_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Every normalization layer of a model, those in shortcuts included."""
    return (module for module in model.modules() if isinstance(module, TYPES))


def own_parameters(model: nn.Module) -> set[Tensor]:
    """Return the parameters that stay with the client if the normalizer keeps a "mix"."""
    layers = (layer for layer in norm_layers(model) if isinstance(layer, NormLayer))
    return {layer.get_parameter(name) for layer in layers for name in layer.own}


def norm_parameters(model: nn.Module) -> set[Tensor]:
    """Return the scales and shifts of all normalizers."""
    scales: set[Tensor] = {
        p for layer in norm_layers(model) for p in layer.parameters(recurse=False)
    }
    for module in model.modules():
        # Torch keeps WN's g, "original0", next to the parametrization, not in it.
        if isinstance(module, parametrize.ParametrizationList) and isinstance(
            module[0],
            parametrizations._WeightNorm,  # noqa: SLF001  # torch names it nowhere else
        ):
            scales.add(cast("Tensor", module.original0))
    return scales


def set_training(model: nn.Module, *, frozen: bool) -> None:
    """Set the training mode. If frozen, the statistics of every BN layer are constants.

    Only the layers are set, because a whole model in eval mode would lose its dropout too.
    """
    model.train()
    if frozen:
        for layer in norm_layers(model):
            if isinstance(layer, _BatchNorm):
                layer.eval()


def standardized(model: nn.Module) -> list[Tensor]:
    """Return the trained weights that are standardized before use."""
    return [
        module.original
        for module in model.modules()
        if isinstance(module, parametrize.ParametrizationList)
        and isinstance(module[0], StandardizedWeight)
    ]


@torch.no_grad()
def clip_rows(weights: list[Tensor], bound: float) -> None:
    """Clip gradients adaptively by row (Brock et al. 2021). A row is an output channel.

    If a row's gradient G_i is longer than bound max(|W_i|, 1e-3), it is scaled to that length.
    """
    for weight in weights:
        assert weight.grad is not None
        clip_gradient_rows(weight, weight.grad, bound)


def clip_gradient_rows(weight: Tensor, gradient: Tensor, bound: float) -> None:
    """Clip the gradient of a weight [..., Co, Ci, k, k] by row in place (see `clip_rows`)."""
    size = row_norm(weight).clamp(min=LEAST_WEIGHT)
    slope = row_norm(gradient).clamp(min=LEAST_GRADIENT)
    gradient.mul_((bound * size / slope).clamp(max=1.0))


def row_norm(weight: Tensor) -> Tensor:
    """Return the length of each row of a weight [..., Co, Ci, k, k]: [..., Co, 1, 1, 1]."""
    norm: Tensor = torch.linalg.vector_norm(weight, dim=(-3, -2, -1), keepdim=True)
    return norm
