"""FedTAN: the first local step of a round, which the clients of the cohort take together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.unit.trainers.arms import config, small, trace
from tests.unit.trainers.fedtan_by_hand import fedtan_by_hand
from tests.unit.trainers.offers import offer
from tests.unit.trainers.photos import few_photos, on_photos
from trainers import draws, engines, fedavg, joint, model_check
from trainers.config import ALGORITHMS, MODEL, TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.joint import JointStep
from trainers.models import Model, Norm
from trainers.normalizers import JointBatchNorm
from trainers.numerics import make_deterministic

CLOSE = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def drawn(config: TrainConfig, clients: int, round: int) -> list[int]:
    return draws.cohort(config.seed, clients, config.cohort_size(clients), round)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("steps", "momentum"), [(1, "none"), (1, "local"), (3, "reset"), (3, "local"), (3, "global")]
)
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_the_engine_equals_fedtan_by_hand(
    steps: int, momentum: str, clip_norm: float, digits: Dataset
) -> None:
    """In float64, with unequal clients of which three of five are drawn in each round."""
    chosen = small(
        normalizer="fedtan", dtype="float64", local_steps=steps, momentum=momentum,
        clip_norm=clip_norm, partition="dirichlet-class", alpha=1.0,
    )  # fmt: skip
    wanted = fedtan_by_hand(chosen, digits, drawn)
    for measured, by_hand in zip(fedavg.run(chosen, digits), wanted, strict=True):
        assert measured.train_loss == pytest.approx(float(by_hand.pop("loss")), rel=1e-11)
        weights = measured.weights()
        assert weights.keys() == by_hand.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, by_hand[name], **CLOSE)


def test_equal_clients_with_one_step_are_centralized_bn(digits: Dataset) -> None:
    """In full participation, rounds of E = 1 are steps of BN on the union of the clients' batches.

    They are torch's own, with the running statistics of the union.
    """
    chosen = small(
        normalizer="fedtan", dtype="float64", local_steps=1, momentum="none", partition="iid",
        clients=3, participation=1.0, clip_norm=0.0,
    )  # fmt: skip
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    trial.samples[:] = [samples[:400] for samples in trial.samples]  # equal weights
    twin = fedavg._Federation(small(dtype="float64"), digits, torch.device("cpu"))
    central = twin.model.train()
    optimizer = torch.optim.SGD(central.parameters(), lr=chosen.lr, weight_decay=1e-3)
    for number in (1, 2, 3):
        batches = trial.first_batches(number, trial.drawn(number))
        trial.train(number, sorted)
        images = torch.cat([images for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        optimizer.zero_grad()
        nn.functional.cross_entropy(central(twin.local.normalize(images)), labels).backward()
        optimizer.step()
    ours = trial.vector.named(trial.server)
    for name, tensor in central.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-12, atol=1e-12)
    assert not torch.equal(ours["norm1.weight"], torch.ones_like(ours["norm1.weight"]))


ARMS: list[dict[str, Any]] = [
    {"momentum": momentum, "local_steps": steps}
    for momentum, steps in zip(("none", "reset", "local", "global"), (1, 2, 3, 3), strict=True)
] + [{"algorithm": name} for name in ALGORITHMS if name != "fedavg"]
ARMS += [{"optimizer": "adam"}, {"dtype": "bfloat16"}, {"diagnostics": True}]


@pytest.mark.parametrize(
    "arm", [*ARMS[:4], *(pytest.param(arm, marks=pytest.mark.slow) for arm in ARMS[4:])], ids=str
)
def test_neither_the_order_of_clients_nor_a_resumption_shows(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """Bit for bit, after every round, under every momentum and algorithm."""
    chosen = small(normalizer="fedtan", **arm)
    whole = trace(chosen, digits)
    assert trace(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == whole
    for after in (1, 2, 3):
        for measured in itertools.islice(fedavg.run(chosen, digits), after):
            state = measured.state()
        assert trace(chosen, digits, state) == whole[after:]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_corrects_each_client_s_own_joint_gradient(
    algorithm: str, digits: Dataset
) -> None:
    """The joint step differs from BN's, and the training stays finite."""
    joined, plain = (
        list(fedavg.run(small(normalizer=name, algorithm=algorithm, dtype="float64"), digits))
        for name in ("fedtan", "bn")
    )
    assert all(a.train_loss != b.train_loss for a, b in zip(joined, plain, strict=True))


@pytest.mark.parametrize("changes", [{"clients": 1}, {"participation": 0.2}, {"centralized": True}])
def test_a_cohort_of_one_client_is_bn(changes: dict[str, Any], digits: Dataset) -> None:
    """Bit for bit, in all measurements, states and bytes."""
    joined, plain = small(normalizer="fedtan", **changes), small(normalizer="bn", **changes)
    assert trace(joined, digits) == trace(plain, digits)
    sent = [next(fedavg.run(chosen, digits)).bytes_up for chosen in (joined, plain)]
    assert sent[0] == sent[1]


def test_the_statistics_and_their_slopes_travel_too(digits: Dataset) -> None:
    """Per client and direction, 4 C elements for each BN layer: here 4 (32 + 64)."""
    joined, plain = (next(fedavg.run(small(normalizer=n), digits)) for n in ("fedtan", "bn"))
    assert joined.bytes_up - plain.bytes_up == 3 * 4 * 4 * 96
    assert joined.bytes_down - plain.bytes_down == 3 * 4 * 4 * 96


def test_its_gradients_deviate_by_rounding_alone(digits: Dataset) -> None:
    """The mean of the clients' joint gradients is the gradient of the joint loss. BN's is not."""
    changes: dict[str, Any] = {"dtype": "float64", "alpha": 0.05, "diagnostics": True}
    for measured in fedavg.run(small(normalizer="fedtan", **changes), digits):
        assert measured.gradient_deviation is not None
        assert measured.gradient_deviation < 1e-12
        assert measured.statistics_mismatch is not None
        assert measured.statistics_mismatch > 1e-3


def test_after_one_joint_step_all_clients_have_the_same_statistics(digits: Dataset) -> None:
    """E = 1: every client moves its running statistics by the same numbers."""
    chosen = small(normalizer="fedtan", dtype="float64", local_steps=1, diagnostics=True)
    for measured in fedavg.run(chosen, digits):
        assert measured.statistics_mismatch == pytest.approx(0, abs=1e-12)


def test_bfloat16_trains_near_float32(digits: Dataset) -> None:
    """The statistics are computed in float32 from activations in bfloat16."""
    full, half = (
        list(fedavg.run(small(normalizer="fedtan", dtype=dtype, rounds=2), digits))
        for dtype in ("float32", "bfloat16")
    )
    assert half[1].train_loss != full[1].train_loss
    assert half[1].train_loss == pytest.approx(full[1].train_loss, rel=0.05)


def test_one_value_per_channel_of_each_client_has_joint_statistics() -> None:
    """BN cannot normalize one image of 1x1 pixels. Two clients have a mean and a variance."""
    layer = JointBatchNorm(3).double()
    step = JointStep(nn.Sequential(layer))
    x = torch.tensor([[1.0, 2.0, 3.0], [5.0, 2.0, -3.0]], dtype=torch.float64)[:, :, None, None]
    with step.pooled([1, 1], [0.25, 0.75]) as calls:
        y = layer(x)
    mean = 0.25 * x[0, :, 0, 0] + 0.75 * x[1, :, 0, 0]
    variance = 0.25 * (x[0, :, 0, 0] - mean) ** 2 + 0.75 * (x[1, :, 0, 0] - mean) ** 2
    torch.testing.assert_close(calls[0].mean.detach(), mean)
    torch.testing.assert_close(calls[0].variance.detach(), variance)
    wanted = (x[:, :, 0, 0] - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(y[:, :, 0, 0].detach(), wanted)
    assert calls[0].count == 2


class Twice(nn.Module):
    """A model that calls one BN layer twice, the first time on the images themselves."""

    def __init__(self, norm: Norm, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(self.norm(x))).mean((2, 3)))  # type: ignore[no-any-return]


class Fickle(Twice):
    """A model that skips its BN layer for small batches."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) > 4 else self.linear(self.conv(x).mean((2, 3)))


class Dropping(Twice):
    """A model with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


TWICE = Model(lambda channels, _, classes, norm: Twice(norm, channels, classes))
FICKLE = Model(lambda channels, _, classes, norm: Fickle(norm, channels, classes))
DROPPING = Model(lambda channels, _, classes, norm: Dropping(norm, channels, classes))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TWICE", "FICKLE", "DROPPING")
    offer(monkeypatch, MODEL.group, **{name.lower(): f"{__name__}:{name}" for name in names})


@pytest.mark.usefixtures("offered")
def test_a_layer_before_the_weights_or_called_twice_has_joint_gradients() -> None:
    """The mean of the clients' gradients is that of the joint loss, over the images' statistics
    too.
    """
    chosen = on_photos(model="twice", normalizer="fedtan", dtype="float64", diagnostics=True)
    assert model_check.check(chosen, few_photos(), None) == ()
    for measured in fedavg.run(chosen, few_photos()):
        assert measured.gradient_deviation is not None
        assert measured.gradient_deviation < 1e-12


@pytest.mark.usefixtures("offered")
def test_a_model_that_treats_one_client_otherwise_is_refused() -> None:
    """Its layers are called less often for one client than for all. No number is made up."""
    chosen = on_photos(model="fickle", normalizer="fedtan")
    with pytest.raises(ValueError, match="calls its normalization layers in another order"):
        list(fedavg.run(chosen, few_photos()))


def test_layers_that_are_called_in_another_order_are_refused() -> None:
    """The statistics of one layer are never used for another one."""
    layers = nn.Sequential(JointBatchNorm(3), JointBatchNorm(3))
    step = JointStep(layers)
    x = torch.randn(4, 3, 2, 2)
    step.gather(lambda: layers(x).sum(), [2, 2], [0.5, 0.5])

    def alone(order: list[int]) -> None:
        with step.alone():
            for i in order:
                layers[i](x)

    for order in ([1, 0], [0], [0, 1, 1]):
        with pytest.raises(ValueError, match=joint.UNEQUAL):
            alone(order)
    assert all(layer.statistics is None for layer in step.layers)


@pytest.mark.parametrize("model", ["mobilenet_v2", "deeplabv3plus"])
def test_a_plan_refuses_models_of_ours_with_dropout(model: str) -> None:
    """The sentence says why, and names the remedy."""
    road = {"dataset": "camvid", "partition": "natural"} if model == "deeplabv3plus" else {}
    with pytest.raises(ValidationError, match="because its dropout would differ between the two"):
        config(model=model, normalizer="fedtan", **road)
    assert config(model=model, normalizer="bn", **road).normalizer == "bn"


@pytest.mark.usefixtures("offered")
def test_a_worker_refuses_a_model_that_draws() -> None:
    """A plan cannot know the dropout of another package's model. BN trains it."""
    chosen = on_photos(model="dropping", normalizer="fedtan")
    with pytest.raises(ValueError, match="it draws random numbers in training, as dropout does"):
        model_check.check(chosen, few_photos(), None)
    assert model_check.check(on_photos(model="dropping"), few_photos(), None) == ()


@pytest.mark.parametrize(
    "model",
    [
        "resnet20",
        pytest.param("resnet18", marks=pytest.mark.slow),
        "timm:test_resnet",
        pytest.param("timm:test_efficientnet", marks=pytest.mark.slow),
    ],
)
def test_exchanged_layers_have_joint_gradients(model: str) -> None:
    """In models of ours, of torchvision and of timm. Timm's layers have an activation."""
    changes: dict[str, Any] = {"dtype": "float64", "diagnostics": True, "rounds": 1}
    chosen = on_photos(model=model, normalizer="fedtan", **changes)
    assert model_check.check(chosen, few_photos(), None) == ()
    (measured,) = fedavg.run(chosen, few_photos())
    assert measured.gradient_deviation is not None
    assert measured.gradient_deviation < 1e-9


def test_the_engine_stack_refuses_it(digits: Dataset) -> None:
    """`auto` trains it by `seq`, and gives the reason."""
    why = "with fedtan, clients compute their statistics together"
    choice = engines.choose(small(normalizer="fedtan"), digits, "cuda:0")
    assert choice == engines.Choice("seq", why)
    with pytest.raises(engines.Unsuitable, match=why):
        engines.choose(small(normalizer="fedtan"), digits, "cuda:0", "stack")
