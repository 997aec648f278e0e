"""Initial weights from a file."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.unit.trainers.arms import JOINT, NORMALIZERS
from tests.unit.trainers.photos import few_photos, on_photos
from trainers import fedavg, model_check
from trainers.models import build
from trainers.pretrained import Misfit


def trained(**changes: Any) -> dict[str, Tensor]:
    """Return the final weights of a trial, as an export has them."""
    data = few_photos()
    return [round.weights() for round in fedavg.run(on_photos(**changes), data)][-1]


def with_weights(weights: dict[str, Tensor], **changes: Any) -> nn.Module:
    return build(on_photos(**changes), 3, 8, 4, weights)


@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
@pytest.mark.parametrize("model", ["cnn", "timm:test_efficientnet"])
def test_exported_weights_are_the_initial_ones_of_the_same_normalizer(
    model: str, arm: dict[str, Any]
) -> None:
    """All of them, bit for bit, statistics and changed convolutions included."""
    weights = trained(model=model, **arm)
    state = with_weights(weights, model=model, **arm, seed=5).state_dict()
    shared = {name: t for name, t in weights.items() if not name.startswith("clients.")}
    assert shared.keys() == state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in shared.items())


@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
def test_weights_of_bn_are_the_initial_ones_of_every_normalizer(arm: dict[str, Any]) -> None:
    """By path, before a convolution is changed. Statistics are taken by those who have them."""
    weights = trained(model="resnet20")
    notes = model_check.check(
        on_photos(model="resnet20", **arm, pretrained="bn.safetensors"), few_photos(), weights
    )
    made = with_weights(weights, model="resnet20", **arm)
    for name, module in made.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if arm["normalizer"] == "ws":
            weight = module.parametrizations.weight.original  # type: ignore[union-attr,index]
        else:
            weight = module.weight
        assert torch.allclose(weight, weights[f"{name}.weight"], atol=1e-6)
    state = made.state_dict()
    assert torch.equal(state["norm.bias"], weights["norm.bias"])
    if "norm.running_mean" in state:
        assert torch.equal(state["norm.running_mean"], weights["norm.running_mean"])
        assert notes == ("pretrained = bn.safetensors: 97 tensors are taken",)
    else:
        lost = [name for name in weights.keys() - state.keys() if "norm" in name]
        first = f"has no such tensors: {min(lost)} and {len(lost) - 1} more"
        assert first in notes[1]


def test_a_trial_starts_from_the_weights() -> None:
    """Its first round differs from one that starts at the seed's weights."""
    weights = trained()
    data = few_photos()
    first = fedavg.run(on_photos(), data)
    second = fedavg.run(on_photos(), fedavg.replace(data, pretrained=weights))
    assert next(first).train_loss != next(second).train_loss
    still = fedavg._Federation(
        on_photos(), fedavg.replace(data, pretrained=weights), torch.device("cpu")
    )
    named = still.vector.named(still.server)
    assert all(torch.equal(named[name], tensor) for name, tensor in weights.items())
    still.close()


def test_an_output_layer_of_another_size_starts_with_the_seed_s_weights() -> None:
    """The log names it. The other layers have the file's weights."""
    weights = build(on_photos(), 3, 8, 10).state_dict()
    notes: list[str] = []
    made = build(on_photos(seed=3), 3, 8, 4, weights, notes.append)
    assert torch.equal(made.conv1.weight, weights["conv1.weight"])
    assert torch.equal(made.linear.weight, build(on_photos(seed=3), 3, 8, 4).linear.weight)
    assert "the output layer linear is new, because the file has none of its size" in notes
    weights = {name: t for name, t in weights.items() if not name.startswith("linear")}
    lacking = build(on_photos(seed=3), 3, 8, 4, weights)
    assert torch.equal(lacking.linear.weight, made.linear.weight)


def test_weights_of_timm_fit_a_model_of_timm() -> None:
    """With their step counts, and a head of 1000 classes."""
    theirs = timm.create_model("test_resnet").state_dict()
    made = with_weights(theirs, model="timm:test_resnet", normalizer="gn")
    weights = {name: t for name, t in made.state_dict().items() if t.dim() == 4}
    assert len(weights) > 10
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights.items())


def test_weights_in_double_precision_are_taken_as_they_are() -> None:
    """A trial in float64 does not round them."""
    weights = {name: t.double() * (1 + 1e-12) for name, t in trained().items()}
    state = with_weights(weights, dtype="float64").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def changed(weights: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    names = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: t for name, t in (weights | names).items() if t is not None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conv1__weight": torch.zeros(32, 3, 7, 7)}, "conv1.weight is 32x3x7x7 in the file and"),
        ({"conv1__weight": None}, "the file has no conv1.weight"),
        ({"conv9__weight": torch.zeros(1)}, "the model has no conv9.weight"),
        ({"norm1__weight": torch.zeros(8)}, "norm1.weight is 8 in the file and 32 in the model"),
        ({"norm1__bias": torch.full((32,), torch.nan)}, "norm1.bias holds values that are not"),
        ({"norm1__bias": torch.zeros(32, dtype=torch.int64)}, "norm1.bias holds values that"),
        (
            {"conv1__parametrizations__weight__original0": torch.zeros(32, 1, 1, 1)},
            "belongs to another normalizer's convolution",
        ),
    ],
)
def test_weights_that_fit_in_part_are_refused(
    changes: dict[str, Tensor | None], reason: str
) -> None:
    """No layer but the output layer keeps initial weights in silence."""
    weights = changed(build(on_photos(), 3, 8, 4).state_dict(), **changes)
    with pytest.raises(Misfit, match=reason):
        with_weights(weights)
    with pytest.raises(ValueError, match=r"pretrained = w\.safetensors does not fit cnn: "):
        model_check.check(on_photos(pretrained="w.safetensors"), few_photos(), weights)


def test_weights_of_another_model_are_refused() -> None:
    """Those that fit nowhere, and those of the output layer alone."""
    with pytest.raises(Misfit, match="the model has no conv1"):
        with_weights(trained(), model="vit_tiny", normalizer="ln")
    head = {name: t for name, t in trained().items() if name.startswith("linear")}
    with pytest.raises(Misfit, match="the file has no conv1"):
        with_weights(head)
