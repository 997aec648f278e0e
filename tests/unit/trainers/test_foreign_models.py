"""Models of other packages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainers.arms import JOINT, NORMALIZERS, config
from tests.unit.trainers.offers import offer
from tests.unit.trainers.photos import few_photos, on_photos
from trainers import fedavg, model_check, models, seq, stack
from trainers.config import MODEL
from trainers.models import Model, Norm


class Net(nn.Module):
    """One convolution, and one layer of each kind of offer."""

    def __init__(self, channels: int, classes: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm = norm
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def asking(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    return Net(channels, classes, norm(8))


def having(channels: int, _size: int, classes: int, _norm: Norm) -> nn.Module:
    return Net(channels, classes, nn.BatchNorm2d(8))


def picky(_channels: int, size: int, _classes: int, _norm: Norm) -> nn.Module:
    raise ValueError(f"images of {size} pixels are\ntoo small")


def broken(_channels: int, _size: int, _classes: int, _norm: Norm) -> nn.Module:
    raise KeyError("width")


def for_gray(_channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    return Net(1, classes, norm(8))


def short(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    return Net(channels, classes - 1, norm(8))


def flat(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    model = Net(channels, classes, norm(8))
    model.linear = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, classes))
    return model


def deep(channels: int, _size: int, classes: int, _norm: Norm) -> nn.Module:
    return Net(channels, classes, nn.BatchNorm3d(8))


class Auxiliary(Net):
    """In training, it returns a second output."""

    def forward(self, x: Tensor) -> Any:
        return (super().forward(x), x) if self.training else super().forward(x)


def auxiliary(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    return Auxiliary(channels, classes, norm(8))


def odd(channels: int, _size: int, classes: int, _norm: Norm) -> nn.Module:
    return Net(channels, classes, nn.SyncBatchNorm(8))


def nothing(_channels: int, _size: int, _classes: int, _norm: Norm) -> Any:
    return None


ASKING, HAVING = Model(asking, elements=200, uses_generator=False), Model(having)
PICKY, BROKEN, FOR_GRAY, SHORT = Model(picky), Model(broken), Model(for_gray), Model(short)
ODD, NOTHING, FLAT, DEEP = Model(odd), Model(nothing), Model(flat), Model(deep)
AUXILIARY = Model(auxiliary)
SCENES = Model(asking, task="segmentation")
OTHER_TASK = Model(asking, task="detection")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _offered(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ASKING", "HAVING", "PICKY", "BROKEN", "FOR_GRAY", "SHORT", "ODD", "NOTHING", "SCENES")
    names += ("OTHER_TASK", "Net", "missing", "FLAT", "DEEP", "AUXILIARY")
    offer(monkeypatch, MODEL.group, **{name.lower(): f"{__name__}:{name}" for name in names})


@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
@pytest.mark.parametrize("model", ["asking", "having"])
def test_a_model_that_asks_for_layers_or_has_batch_norm_trains(
    model: str, arm: dict[str, Any]
) -> None:
    """Both are the same model under every normalizer, bit for bit."""
    data = few_photos()
    states = [
        [round.state().tensors for round in fedavg.run(on_photos(model=name, **arm), data)][-1]
        for name in (model, "asking")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert model_check.check(on_photos(model=model, **arm), data, None) == ()


def test_its_own_initial_weights_come_from_the_trial_s_seed() -> None:
    """They are equal under every normalizer; torch's generator goes on as if nothing was built."""
    torch.manual_seed(1)
    follows = torch.rand(1)
    torch.manual_seed(1)
    plain = models.build(config(model="asking"), 3, 8, 4)
    assert torch.equal(torch.rand(1), follows)
    for changes in ({"normalizer": "gn"}, {"normalizer": "none"}, {"model": "asking"}):
        made = models.build(config(**{"model": "asking", **changes}), 3, 8, 4)
        assert torch.equal(made.conv.weight, plain.conv.weight)
    other = models.build(config(model="asking", seed=1), 3, 8, 4)
    assert not torch.equal(other.conv.weight, plain.conv.weight)


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ("picky", {}, "with normalizer = bn: images of 8 pixels are too small"),
        ("broken", {}, "KeyError: 'width' .correct the package of the part, or choose another"),
        ("flat", {}, "its layer linear.0 is a BatchNorm1d, so that no normalizer can replace it"),
        ("deep", {}, "its layer norm is a BatchNorm3d, so that no normalizer can replace it"),
        ("auxiliary", {}, "it computes tuple, and not logits of shape .* correct its package, or"),
        ("for_gray", {}, "RuntimeError: Given groups=1"),
        ("short", {}, r"for two images it computes \(2, 3\), and not logits of shape \(2, 4\)"),
        ("odd", {}, "its layer norm is a SyncBatchNorm, .* use a plain BatchNorm2d, or choose an"),
        ("nothing", {}, "its build returned a NoneType, which is no torch module"),
        ("scenes", {}, "it is a model for segmentation, and the data are for classification"),
        ("asking", {"normalizer": "gn", "gn_groups": 3}, "must be divisible by num_groups"),
        ("net", {}, f"{__name__}:Net, offered as net, is no Model"),
        ("other_task", {}, "is no Model .with a `task` of those known."),
        ("timm:resnet1", {}, "has no such model"),
        ("timm:test_vit", {}, "choose normalizer = ln"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_sentence(
    model: str, changes: dict[str, Any], reason: str
) -> None:
    """Before the first round, as an error that is the same on every machine."""
    with pytest.raises(
        ValueError, match=f"model = {model} cannot be trained on.*{reason}"
    ) as error:
        model_check.check(on_photos(model=model, **changes), few_photos(), None)
    assert "\n" not in str(error.value)


def test_an_import_error_is_the_machine_s() -> None:
    """A worker passes such trials over; another machine may have the module."""
    with pytest.raises(AttributeError):
        seq.load_model("missing")


def test_the_facts_of_a_model_are_known_to_a_worker() -> None:
    """Its size, and if it draws random numbers. An unknown size is None."""
    assert (seq.model_elements("asking"), seq.model_elements("having")) == (200, None)
    assert not seq.uses_generator(on_photos(model="asking"))
    assert seq.uses_generator(on_photos(model="having"))
    assert seq.uses_generator(on_photos(model="net"))  # it cannot be asked
    assert seq.uses_generator(on_photos(model="timm:test_resnet"))
    assert seq.uses_generator(on_photos(model="mobilenet_v2"))
    assert not seq.uses_generator(on_photos(model="vit_tiny", normalizer="ln"))


def test_the_engine_stack_refuses_them() -> None:
    """Its lanes know the layers of our models alone."""
    refused = stack.refusal(on_photos(model="asking"), few_photos(), "cuda:0")
    assert refused == "asking is a model of another package"
