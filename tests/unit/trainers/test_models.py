"""Models and their initial weights."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.trainers.arms import config
from trainers.models import build
from trainers.normalizers import norm_layers


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet20_has_the_parameters_of_the_paper() -> None:
    """0.27 million (He et al. 2016, table 6): 269,722 with shortcuts without parameters."""
    assert parameters(build(config(model="resnet20"), 3, 32, 10)) == 269_722


def test_resnet8_has_one_block_in_each_stage() -> None:
    """The stem, 6 convolutions of 9 weights, 7 normalization layers and the linear layer."""
    weights = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    normalizers = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    model = build(config(model="resnet8"), 3, 32, 10)
    assert parameters(model) == weights + normalizers + 64 * 10 + 10 == 75_290


def test_mobilenet_v2_has_the_parameters_of_torchvision() -> None:
    """2,236,682 with ten classes; the stem's stride changes none of them."""
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(num_classes=10)
    ours = build(config(model="mobilenet_v2"), 3, 32, 10)
    assert parameters(ours) == parameters(theirs) == 2_236_682
    assert [(name, p.shape) for name, p in ours.named_parameters()] == [
        (name, p.shape) for name, p in theirs.named_parameters()
    ]
    assert ours.features[0][0].stride == (1, 1)
    assert ours.features(torch.zeros(1, 3, 32, 32)).shape[2:] == (2, 2)


def test_resnet50_has_the_parameters_of_torchvision_but_for_its_stem() -> None:
    """A 3x3 convolution has 64 x 3 x (49 - 9) weights fewer than one of 7x7."""
    from torchvision.models import resnet50

    ours = build(config(model="resnet50"), 3, 32, 10)
    assert parameters(ours) == parameters(resnet50(num_classes=10)) - 64 * 3 * 40


def test_vit_tiny_has_the_layers_of_deit_ti() -> None:
    """12 layers of 12 x 192^2 weights; at 32 pixels, 64 patches and a class token."""
    model = build(config(model="vit_tiny", normalizer="ln"), 3, 32, 10)
    assert len(model.encoder.layers) == 12
    assert model.encoder.pos_embedding.shape == (1, 65, 192)
    matrices = sum(p.numel() for p in model.encoder.layers.parameters() if p.dim() == 2)
    assert matrices == 12 * 12 * 192**2
    kinds = {type(layer) for layer in norm_layers(model)}
    assert kinds == {torch.nn.LayerNorm}


@pytest.mark.parametrize(("model", "normalizer"), [("mobilenet_v2", "bn"), ("vit_tiny", "ln")])
def test_all_weights_of_a_new_model_come_from_the_seed(model: str, normalizer: str) -> None:
    """Not from torch's generator, from which torchvision has drawn its own."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build(config(model=model, normalizer=normalizer), 3, 8, 10).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    other = build(config(model=model, normalizer=normalizer, seed=1), 3, 8, 10).state_dict()
    matrices = [name for name, tensor in other.items() if tensor.dim() > 1]
    assert not any(torch.equal(other[name], states[0][name]) for name in matrices)


@pytest.mark.parametrize("model", ["resnet20", "mobilenet_v2"])
def test_weights_are_equal_under_every_normalizer(model: str) -> None:
    """Keyed by module path: arms of one seed start from the same convolutions."""
    bn = build(config(model=model), 3, 32, 10)
    gn = build(config(model=model, normalizer="gn"), 3, 32, 10)
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
