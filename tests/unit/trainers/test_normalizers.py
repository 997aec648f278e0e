"""Normalizers against their formulas, in float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import trainers.config
from tests.unit.trainers.arms import JOINT, NORMALIZERS, ROAD, config, small
from trainers import fedavg, models, normalizers, registry
from trainers.config import NORMALIZER
from trainers.data import datasets
from trainers.models import build
from trainers.normalizers import (
    OURS,
    RELU_GAIN,
    BatchNorm,
    InstanceNorm,
    NormLayer,
    StandardizedWeight,
    clip_rows,
    find,
    norm_layers,
    norm_parameters,
    set_training,
    standardized,
)
from trainers.own_models import OWN


def layer(normalizer: str, channels: int = 4) -> nn.Module:
    freeze = {"freeze_round": 1} if normalizer == "fixbn" else {}
    made = find(normalizer).layer(channels, config(normalizer=normalizer, **freeze)).double()
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


def test_a_frozen_layer_normalizes_in_training_as_in_the_test() -> None:
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


def test_ln_follows_its_formula() -> None:
    """Each sample's statistics over C, H and W; scale and shift per channel."""
    made = layer("ln")
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64) * 2 + 1
    mean = x.mean((1, 2, 3), keepdim=True)
    var = x.var((1, 2, 3), unbiased=False, keepdim=True)
    wanted = scaled((x - mean) / (var + 1e-5).sqrt(), made)
    assert torch.allclose(made(x), wanted, atol=1e-12)


def test_in_follows_its_formula_and_is_affine_over_one_pixel() -> None:
    """Each sample's and channel's statistics over H and W, in training as in the test."""
    made = layer("in")
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64) * 2 + 1
    mean = x.mean((2, 3), keepdim=True)
    var = x.var((2, 3), unbiased=False, keepdim=True)
    wanted = scaled((x - mean) / (var + 1e-5).sqrt(), made)
    assert torch.allclose(made(x), wanted, atol=1e-12)
    assert torch.equal(made.eval()(x), made.train()(x))
    pixel = torch.randn(3, 4, 1, 1, dtype=torch.float64)
    assert torch.equal(made(pixel), scaled(pixel, made))


def test_bn_of_one_value_a_channel_uses_the_running_statistics_and_leaves_them() -> None:
    """One 1x1 map has no variance; two have."""
    made = layer("bn")
    made(torch.randn(6, 4, 5, 5, dtype=torch.float64))
    mean, var = made.running_mean.clone(), made.running_var.clone()
    pixel = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    shape = (1, 4, 1, 1)
    wanted = scaled((pixel - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt(), made)
    assert made.training
    assert torch.allclose(made(pixel), wanted, atol=1e-12)
    assert torch.equal(made.running_mean, mean)
    made(torch.randn(2, 4, 1, 1, dtype=torch.float64))
    assert not torch.equal(made.running_mean, mean)


def test_none_only_shifts() -> None:
    """The convolution's bias: y = x + beta."""
    made = layer("none")
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(made(x), x + made.bias[None, :, None, None])


def conv(normalizer: str) -> nn.Conv2d:
    made = nn.Conv2d(3, 4, 3, bias=False)
    find(normalizer).convolution(made)
    return made.double()


def test_wn_follows_its_formula_and_starts_at_the_drawn_weight() -> None:
    """W = g v / |v| for each output channel; with g = |v| at first."""
    plain = nn.Conv2d(3, 4, 3, bias=False).double()
    made = copy.deepcopy(plain)
    find("wn").convolution(made)
    assert torch.allclose(made.weight, plain.weight, atol=1e-15)
    g, v = made.parametrizations.weight.original0, made.parametrizations.weight.original1
    with torch.no_grad():
        g.copy_(torch.randn_like(g))
        v.mul_(3)
    wanted = g * v / v.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    assert torch.allclose(made.weight, wanted, atol=1e-12)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert torch.allclose(made(x), nn.functional.conv2d(x, wanted), atol=1e-12)


def test_ws_follows_its_formula() -> None:
    """W^ = g (W - mu) / (sigma sqrt(fan_in)) for each output channel: rows of mean 0, norm g."""
    made = conv("ws")
    w, g = made.parametrizations.weight.original, made.parametrizations.weight[0].gain
    assert torch.allclose(g, torch.full_like(g, RELU_GAIN))
    mu = w.mean((1, 2, 3), keepdim=True)
    sigma = w.var((1, 2, 3), unbiased=False, keepdim=True).sqrt()
    assert torch.allclose(made.weight, g * (w - mu) / (sigma * 27**0.5), atol=1e-12)
    assert torch.allclose(made.weight.mean((1, 2, 3)), torch.zeros(4).double(), atol=1e-15)
    assert torch.allclose(made.weight.flatten(1).norm(dim=1), g.flatten(), atol=1e-12)


def test_the_gain_of_ws_keeps_the_variance_through_a_relu() -> None:
    """Rectified unit Gaussians have variance (1 - 1/pi) / 2."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    assert float(x.var() * RELU_GAIN**2) == pytest.approx(1, abs=0.02)


def test_rows_are_clipped_to_a_share_of_their_weights() -> None:
    """|G_i| <= bound max(|W_i|, 1e-3), and shorter gradients are left alone."""
    weight = nn.Parameter(torch.tensor([3.0, 3.0, 1e-5]).view(3, 1, 1, 1).double())
    weight.grad = torch.tensor([1.0, 0.2, 1.0]).view(3, 1, 1, 1).double()
    clip_rows([weight], 0.1)
    assert weight.grad.flatten().tolist() == pytest.approx([0.3, 0.2, 1e-4])


def test_ws_clips_the_gradients_of_its_convolutions_alone() -> None:
    """Their weights, not their gains, shifts, nor the linear layer."""
    model = build(config(normalizer="ws"), 1, 8, 10)
    weights = standardized(model)
    assert [tuple(w.shape) for w in weights] == [(32, 1, 3, 3), (64, 32, 3, 3)]
    assert standardized(build(config(), 1, 8, 10)) == []
    digits = datasets.load("digits")
    changes = {"momentum": "none", "weight_decay": 0.0, "clip_norm": 0.0, "local_steps": 1}
    tight = small(**changes, normalizer="ws", agc_clip=1e-9, rounds=1)
    trial = fedavg._Federation(tight, digits, torch.device("cpu"))
    before = {name: v.clone() for name, v in trial.vector.named(trial.server).items()}
    trial.train(1, sorted)
    for name, after in trial.vector.named(trial.server).items():
        moved = float((after - before[name]).abs().max())
        assert (moved < 1e-8) == name.endswith("original"), name


@pytest.mark.parametrize(
    ("normalizer", "scales", "kept"),
    [
        ("bn", ["norm1.weight", "norm1.bias"], "nothing"),
        ("gn", ["norm1.weight", "norm1.bias"], "nothing"),
        ("in", ["norm1.weight", "norm1.bias"], "nothing"),
        ("none", ["norm1.bias"], "nothing"),
        ("wn", ["norm1.bias", "conv1.parametrizations.weight.original0"], "nothing"),
        ("ws", ["norm1.bias", "conv1.parametrizations.weight.0.gain"], "nothing"),
        ("fedbn", ["norm1.weight", "norm1.bias"], "layer"),
        ("silobn", ["norm1.weight", "norm1.bias"], "statistics"),
    ],
)
def test_scales_and_shifts_are_what_a_normalizer_adds(
    normalizer: str, scales: list[str], kept: str
) -> None:
    """They are what decay_norm spares and a frozen layer rests."""
    model = build(config(normalizer=normalizer), 1, 8, 10)
    found = norm_parameters(model)
    named = [name for name, p in model.named_parameters() if p in found]
    assert {name for name in named if "1." in name.replace("original1", "")} == set(scales)
    assert find(normalizer).keeps == kept


def test_initial_weights_are_equal_under_every_normalizer() -> None:
    """Keyed by path, before any reparametrization; wn starts at them too."""
    plain = dict(build(config(normalizer="none"), 1, 8, 10).named_modules())
    for arm in [*NORMALIZERS, *JOINT]:
        model = build(config(**arm), 1, 8, 10)
        for name in ("conv1", "conv2"):
            convolution = dict(model.named_modules())[name]
            if arm["normalizer"] == "ws":
                weight = convolution.parametrizations.weight.original
            else:
                weight = convolution.weight
            assert torch.allclose(weight, plain[name].weight, atol=1e-7)
        assert torch.equal(model.linear.weight, plain["linear"].weight)


LAYERS = {
    "cnn": 2,
    "resnet8": 7,
    "resnet20": 19,
    "resnet18": 20,
    "resnet50": 53,
    "mobilenet_v2": 52,
    "vit_tiny": 25,
    "deeplabv3plus": 61,
}
"""The normalization layers of each model."""

OFTEN = ({"normalizer": "bn"}, {"normalizer": "ws"})
"""The arms that `make test` builds the largest models with: a layer, and changed weights."""


def models_and_arms() -> Iterator[Any]:
    """Yield each model with each arm that it takes; the largest models with most arms are slow."""
    for own, arm in itertools.product(OWN, NORMALIZERS):
        if arm["normalizer"] not in (own.normalizers or trainers.config.NORMALIZERS):
            continue
        model = own.name
        slow = model == "resnet50" or (model in ("deeplabv3plus", "resnet18") and arm not in OFTEN)
        marks = [pytest.mark.slow] if slow else []
        yield pytest.param(model, arm, marks=marks, id=f"{model}-{arm}")


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("model", "arm"), list(models_and_arms()))
def test_every_model_takes_every_normalizer(model: str, arm: dict[str, str]) -> None:
    """As many layers under each; forward and backward, on one image so small that maps shrink to
    1x1, with finite gradients for all that trains.
    """
    torch.manual_seed(0)
    scene = {"dataset": "camvid", "partition": "natural", "clients": None, "image_height": 32}
    chosen = config(model=model, **arm, **(scene if model == "deeplabv3plus" else {}))
    side = 32 if model == "deeplabv3plus" else 8
    made = build(chosen, 3, side, 10)
    found = [m for m in norm_layers(made) if not isinstance(m, StandardizedWeight)]
    assert len(found) == LAYERS[model]
    assert not any(type(m) in (nn.BatchNorm2d, nn.InstanceNorm2d) for m in made.modules())
    set_training(made, frozen=False)
    out = made(torch.randn(1, 3, side, side))
    assert out.shape[:2] == (1, 10)
    out.square().mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_reparametrized_weights_take_no_part_in_counting() -> None:
    """Under wn and ws every convolution is reparametrized but an output layer, and nothing else."""
    for normalizer, kind in (("wn", "_WeightNorm"), ("ws", "StandardizedWeight")):
        models = [build(config(model="resnet20", normalizer=normalizer), 3, 8, 10)]
        models.append(build(config(**ROAD, normalizer=normalizer), 3, 32, 5))
        for module in itertools.chain(*(model.modules() for model in models)):
            if isinstance(module, nn.Conv2d) and module.bias is None:
                assert parametrize.is_parametrized(module, "weight")
                assert type(module.parametrizations.weight[0]).__name__ == kind
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                assert not parametrize.is_parametrized(module)


class Doubled(NormLayer):
    """A third party's layer with a statistic of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            self.seen += self.steps  # 1 + 2 + 3 in three steps, if the count starts again at 0
        return 2 * x * self.scale[:, None, None]


class Replacing(Doubled):
    """The usual slip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        return super().forward(x)


DOUBLED = normalizers.Normalizer(lambda channels, _: Doubled(channels))
REPLACING = normalizers.Normalizer(lambda channels, _: Replacing(channels))
NOT_ONE = Doubled


def offer(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As if an installed package had declared it."""
    point = EntryPoint("doubled", value, NORMALIZER.group)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [point])
    monkeypatch.setattr(registry, "_names", registry._names.__wrapped__)


def test_another_package_s_normalizer_is_averaged_like_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its scale is trained, its floating-point buffer averaged, its integer one is not."""
    offer(monkeypatch, "tests.unit.trainers.test_normalizers:DOUBLED")
    chosen, digits = small(normalizer="doubled", rounds=2, local_steps=3), datasets.load("digits")
    first, second = ((r.weights(), r.state()) for r in fedavg.run(chosen, digits))
    assert float(first[0]["norm1.seen"]) == pytest.approx(1 + 2 + 3)
    assert float(second[0]["norm1.seen"]) == pytest.approx(2 * (1 + 2 + 3))
    assert "norm1.steps" not in first[0]
    assert not torch.equal(first[0]["norm1.scale"], torch.ones(32))
    backwards = fedavg.run(chosen, digits, visit=lambda m: sorted(m, reverse=True))
    resumed = fedavg.run(chosen, digits, first[1])
    for other in (list(backwards)[-1], next(resumed)):
        assert torch.equal(other.state().tensors["server"], second[1].tensors["server"])


def test_a_layer_that_replaces_its_buffer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values written outside the vector would pass from client to client, unnoticed."""
    offer(monkeypatch, "tests.unit.trainers.test_normalizers:REPLACING")
    with pytest.raises(ValueError, match=r"norm1\.seen was replaced: a layer must write it"):
        next(fedavg.run(small(normalizer="doubled"), datasets.load("digits")))


def test_a_wrong_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is not a Normalizer, and a name without an entry point, are refused."""
    offer(monkeypatch, "tests.unit.trainers.test_normalizers:NOT_ONE")
    with pytest.raises(ValueError, match="is no Normalizer"):
        find("doubled")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [])
    with pytest.raises(ValueError, match="install it here too"):
        find("doubled")


def test_the_registry_is_what_the_configuration_names() -> None:
    """`plan` knows the names without torch."""
    assert set(OURS) == set(trainers.config.NORMALIZERS)
    assert isinstance(OURS["bn"].layer(4, config()), BatchNorm)
    assert isinstance(OURS["in"].layer(4, config(normalizer="in")), InstanceNorm)


def test_a_model_loads_exported_weights() -> None:
    """A plain dict of tensors, as safetensors gives, is all that torch's model asks for."""
    (only,) = fedavg.run(small(rounds=1), datasets.load("digits"))
    model = models.build(config(), 1, 8, 10)
    exported = only.weights()
    assert model.load_state_dict(exported) == ([], [])
    assert all(torch.equal(t, exported[name]) for name, t in model.state_dict().items())
