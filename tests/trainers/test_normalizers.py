"""Normalisers against their formulas, in float64."""

from __future__ import annotations

import torch
from torch import nn

from tests.trainers.test_config import config
from trainers.models import build
from trainers.normalizers import NORMALIZERS, norm_layers, norm_parameters, set_training


def layer(normalizer: str, channels: int = 4) -> nn.Module:
    freeze = {"freeze_round": 1} if normalizer == "fixbn" else {}
    made = NORMALIZERS[normalizer](channels, config(normalizer=normalizer, **freeze)).double()
    torch.manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def scaled(y: torch.Tensor, made: nn.Module) -> torch.Tensor:
    weight, bias = dict(made.named_parameters())["weight"], dict(made.named_parameters())["bias"]
    return y * weight[None, :, None, None] + bias[None, :, None, None]


def test_bn_follows_its_formula_and_keeps_running_statistics() -> None:
    """Batch statistics over B, H, W in training; EMA 0.1 with the unbiased variance in the test."""
    made = layer("bn")
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64) * 3 + 1
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    shape = (1, 4, 1, 1)
    wanted = scaled((x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt(), made)
    assert torch.allclose(made(x), wanted, atol=1e-12)
    unbiased = x.var((0, 2, 3), unbiased=True)
    running_mean, running_var = 0.1 * mean, 0.9 + 0.1 * unbiased
    made.eval()
    y = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    fixed = (y - running_mean.view(shape)) / (running_var.view(shape) + 1e-5).sqrt()
    assert torch.allclose(made(y), scaled(fixed, made), atol=1e-12)


def test_gn_follows_its_formula() -> None:
    """Two groups: each sample's statistics over half of its channels, H and W."""
    made = layer("gn")
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    grouped = x.view(3, 2, -1)
    mean = grouped.mean(2, keepdim=True)
    var = grouped.var(2, unbiased=False, keepdim=True)
    wanted = ((grouped - mean) / (var + 1e-5).sqrt()).view_as(x)
    assert torch.allclose(made(x), scaled(wanted, made), atol=1e-12)


def test_a_frozen_layer_normalises_in_training_as_in_the_test() -> None:
    """And leaves its statistics alone."""
    made = nn.Sequential(layer("fixbn"))
    made(torch.randn(6, 4, 5, 5, dtype=torch.float64))
    before = [b.clone() for b in made.buffers()]
    set_training(made, frozen=True)
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    trained = made(x)
    assert torch.equal(trained, made.eval()(x))
    assert all(torch.equal(a, b) for a, b in zip(before, made.buffers(), strict=True))


def test_freezing_spares_other_layers_that_have_two_modes() -> None:
    """Dropout goes on: the BN layers alone are set."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    set_training(model, frozen=True)
    assert [module.training for module in model] == [True, False, True]


def test_layers_are_found_by_type_wherever_they_stand() -> None:
    """A BN in a shortcut that no name betrays counts too (FedBN's code misses it)."""

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleDict({"odd": nn.BatchNorm2d(3)})

    model = nn.Sequential(nn.GroupNorm(1, 3), Shortcut(), nn.Linear(3, 3))
    assert len(list(norm_layers(model))) == 2
    assert len(norm_parameters(model)) == 4


def test_every_model_takes_every_normaliser() -> None:
    """And has as many normalisation layers under each."""
    for model, layers in (("cnn", 2), ("resnet20", 19)):
        for name in NORMALIZERS:
            changes = {"freeze_round": 1} if name == "fixbn" else {}
            made = build(config(model=model, normalizer=name, **changes), 3, 16, 10)
            assert len(list(norm_layers(made))) == layers
            assert made(torch.randn(4, 3, 16, 16)).shape == (4, 10)
