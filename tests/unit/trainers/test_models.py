"""Models and their initial weights."""

from __future__ import annotations

import math

import torch

from tests.unit.trainers.arms import config
from trainers.models import build


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet20_has_the_parameters_of_the_paper() -> None:
    """0.27 million (He et al. 2016, table 6): 269,722 with shortcuts without parameters."""
    assert parameters(build(config(model="resnet20"), 3, 32, 10)) == 269_722


def test_weights_are_equal_under_every_normalizer() -> None:
    """Keyed by module path: arms of one seed start from the same convolutions."""
    bn = build(config(model="resnet20"), 3, 32, 10)
    gn = build(config(model="resnet20", normalizer="gn"), 3, 32, 10)
    assert bn.state_dict().keys() != gn.state_dict().keys()
    for (path, a), (_, b) in zip(bn.named_parameters(), gn.named_parameters(), strict=True):
        assert torch.equal(a, b), path


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    """Not on torch's own generator."""
    torch.manual_seed(1)
    first = build(config(), 1, 8, 10)
    torch.manual_seed(2)
    again = build(config(), 1, 8, 10)
    other = build(config(seed=1), 1, 8, 10)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_convolutions_start_with_he_s_variance() -> None:
    """2 / fan_out, here over 64 x 64 x 9 weights."""
    model = build(config(model="resnet20"), 3, 32, 10)
    weight = model.blocks[8].conv2.weight.detach()
    assert math.isclose(float(weight.var()), 2 / (64 * 9), rel_tol=0.03)
    assert abs(float(weight.mean())) < 3 * math.sqrt(2 / (64 * 9) / weight.numel())


def test_two_tensors_of_one_model_are_not_alike() -> None:
    """Each path draws its own stream."""
    model = build(config(model="resnet20"), 3, 32, 10)
    assert not torch.equal(model.blocks[0].conv1.weight, model.blocks[0].conv2.weight)
