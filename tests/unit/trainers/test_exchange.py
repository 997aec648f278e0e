"""The exchange of BatchNorm layers by type."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.unit.trainers.arms import JOINT, NORMALIZERS, config
from trainers import own_models
from trainers.exchange import exchange
from trainers.lane_layers import refusal
from trainers.models import build
from trainers.normalizers import BatchNorm, StandardizedWeight, norm_layers


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


def test_a_new_layer_has_the_path_of_the_old_one() -> None:
    """Its eps and momentum too; other layers stay."""
    old = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(old, nn.ReLU()), nn.LayerNorm(8))
    assert exchange(model, BatchNorm) == 1
    new = model.get_submodule("1.0")
    assert type(new) is BatchNorm
    assert (new.eps, new.momentum) == (1e-3, 0.3)
    assert isinstance(model[2], nn.LayerNorm)


def test_a_layer_with_two_places_has_one_new_layer() -> None:
    """Its two places keep sharing their parameters."""
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert exchange(model, group_norm) == 1
    assert model[0] is model[2]
    assert isinstance(model[0], nn.GroupNorm)


def test_an_activation_of_timm_s_layer_is_kept() -> None:
    """The new layer computes it after the normalization, and lanes refuse such a layer."""
    torch.manual_seed(0)
    x, model = torch.randn(2, 4, 3, 3), nn.Sequential(BatchNormAct2d(4))
    before = model(x)
    assert exchange(model, BatchNorm) == 1
    assert torch.equal(model(x), before)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert (before >= 0).all()
    assert "forward hook" in (refusal(model) or "")


class OddNorm(nn.BatchNorm2d):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(4), "its layer 0 is a BatchNorm1d, so that no normalizer can replace it"),
        (OddNorm(4), "is a OddNorm"),
        (nn.SyncBatchNorm(4), "is a SyncBatchNorm"),
        (nn.BatchNorm2d(4, affine=False), "without scale and shift"),
        (nn.BatchNorm2d(4, track_running_stats=False), "without an average of statistics"),
        (nn.BatchNorm2d(4, momentum=None), "without an average of statistics"),
        (BatchNormAct2d(4, drop_layer=nn.Dropout), "drops values"),
    ],
)
def test_a_layer_that_cannot_be_exchanged_is_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        exchange(nn.Sequential(layer), group_norm)


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
def test_as_many_layers_are_exchanged_as_timm_s_model_has(model: str, arm: dict[str, Any]) -> None:
    """Under every normalizer. The convolutions start equal, and no BatchNorm of torch is left."""
    theirs = timm.create_model(model, num_classes=4)
    count = sum(isinstance(layer, nn.BatchNorm2d) for layer in theirs.modules())
    made = build(config(model=f"timm:{model}", **arm), 3, 32, 4)
    layers = [layer for layer in norm_layers(made) if not isinstance(layer, StandardizedWeight)]
    assert len(layers) == count > 10
    assert not any(type(m) in (nn.BatchNorm2d, BatchNormAct2d) for m in made.modules())
    plain = build(config(model=f"timm:{model}", normalizer="none"), 3, 32, 4).state_dict()
    if arm["normalizer"] not in ("wn", "ws"):
        weights = {name: t for name, t in made.state_dict().items() if t.dim() == 4}
        assert weights
        assert all(torch.equal(tensor, plain[name]) for name, tensor in weights.items())


def test_a_model_of_timm_computes_with_bn_what_timm_computes() -> None:
    """With equal weights and statistics, in a test, bit for bit."""
    made = build(config(model="timm:test_efficientnet"), 3, 32, 4).eval()
    theirs = timm.create_model("test_efficientnet", num_classes=4).eval()
    assert theirs.load_state_dict(made.state_dict(), strict=False).unexpected_keys == []
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(made(x), theirs(x))


@pytest.mark.parametrize(
    ("model", "normalizer", "reason"),
    [
        ("test_convnext", "bn", "it has no BatchNorm layers, only LayerNorm, LayerNorm2d: choose"),
        ("test_vit", "gn", "only LayerNorm: choose normalizer = ln, which keeps them"),
        ("test_efficientnet_gn", "ln", "only GroupNormAct: choose another model"),
        ("test_nfnet", "bn", "it has no normalization layers: choose normalizer = none"),
    ],
)
def test_a_normalizer_that_would_change_nothing_is_refused(
    model: str, normalizer: str, reason: str
) -> None:
    """A model without BatchNorm is trained as what it is."""
    with pytest.raises(ValueError, match=reason):
        build(config(model=f"timm:{model}", normalizer=normalizer), 3, 32, 4)


def test_models_without_batch_norm_have_one_normalizer() -> None:
    """LayerNorm layers stay as `ln`; a model without any such layer is trained as `none`."""
    kept = build(config(model="timm:test_convnext", normalizer="ln"), 3, 32, 4)
    assert {type(layer).__name__ for layer in norm_layers(kept)} == {"LayerNorm", "LayerNorm2d"}
    bare = build(config(model="timm:test_nfnet", normalizer="none"), 3, 32, 4)
    assert list(norm_layers(bare)) == []


def test_the_names_of_timm_are_read_without_an_import() -> None:
    """They are the names that timm lists."""
    assert own_models._timm_names() == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("timm:resnet1", r"no model resnet1: did you mean timm:resnet\d+"),
        ("timm:resnet18.a1_in1k", "names weights of timm: write timm:resnet18, and pretrained"),
        ("timm:", "timm.list_models"),
    ],
)
def test_a_name_that_timm_lacks_has_a_remedy(name: str, remedy: str) -> None:
    assert own_models.timm_problem("timm:resnet18") is None
    with pytest.raises(AssertionError, match=remedy):
        raise AssertionError(own_models.timm_problem(name))
