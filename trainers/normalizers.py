"""Normalisation layers: one registry, each with its formula, source and treatment in FedAvg.

x is [B, C, H, W]; E and Var are taken over the named axes, Var biased; eps = 1e-5; scale gamma and
shift beta are per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.config import TrainConfig

Factory = Callable[[int, TrainConfig], nn.Module]


def batch_norm(channels: int, _config: TrainConfig) -> nn.Module:
    """BN (Ioffe and Szegedy 2015): y = gamma (x - E[x]) / sqrt(Var[x] + eps) + beta over B, H, W.

    In FedAvg: gamma, beta and the running statistics (EMA 0.1, Var unbiased, as torch) are
    averaged by training samples, a plain weighted mean of variances. The test uses the average.
    """
    layer = nn.BatchNorm2d(channels)
    # The step count only matters for momentum=None; without it there is no integer to carry.
    layer.num_batches_tracked = None
    return layer


def fixed_batch_norm(channels: int, config: TrainConfig) -> nn.Module:
    """FIXBN (Zhong, Chen and Chao, arXiv 2303.06530): BN in rounds 1..T*, frozen afterwards.

    After T* the aggregated running mean and variance are constants, in training as in the test,
    carried over and never averaged again. gamma and beta go on training (freeze = "statistics")
    or rest as well (freeze = "layer").
    """
    return batch_norm(channels, config)


def group_norm(channels: int, config: TrainConfig) -> nn.Module:
    """GN (Wu and He 2018): as BN, with E and Var over the C/G channels of a group, H and W.

    Nothing is kept between batches; gamma and beta are averaged.
    """
    assert config.gn_groups is not None
    return nn.GroupNorm(config.gn_groups, channels)


NORMALIZERS: dict[str, Factory] = {
    "bn": batch_norm,
    "fixbn": fixed_batch_norm,
    "gn": group_norm,
}

TYPES: tuple[type[nn.Module], ...] = (_BatchNorm, nn.GroupNorm)
"""What counts as a normalisation layer. Layers are found by type: a name can lie."""


def norm_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Every normalisation layer of a model, those in shortcuts included."""
    return (module for module in model.modules() if isinstance(module, TYPES))


def norm_parameters(model: nn.Module) -> set[Tensor]:
    """The scales and shifts of all normalisation layers."""
    return {p for layer in norm_layers(model) for p in layer.parameters(recurse=False)}


def set_training(model: nn.Module, *, frozen: bool) -> None:
    """Training mode; where frozen, with the statistics of every BN layer as constants.

    The layers alone are set: a whole model in eval mode would lose its dropout too.
    """
    model.train()
    if frozen:
        for layer in norm_layers(model):
            if isinstance(layer, _BatchNorm):
                layer.eval()
