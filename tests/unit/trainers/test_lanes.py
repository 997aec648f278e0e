"""Lanes: K clients in one model, exactly as if each were trained alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.trainers import plain_kernels
from trainers import fedavg, models
from trainers.average import Average
from trainers.config import TrainConfig
from trainers.data.batches import Normalize
from trainers.data.dataset import Dataset, Split
from trainers.lane_kernels import Fused
from trainers.lane_operations import Batched, Loop, Operations, Weight
from trainers.lanes import Batch, Lanes, refusal
from trainers.local import Trained
from trainers.models import MeanPool
from trainers.normalizers import BatchNorm, InstanceNorm
from trainers.numerics import make_deterministic
from trainers.vector import Vector

CPU = torch.device("cpu")
TRIAL: dict[str, Any] = {
    "dataset": "cifar10",
    "model": "resnet20",
    "normalizer": "bn",
    "partition": "iid",
    "clients": 3,
    "rounds": 4,
    "batch_size": 4,
    "lr": 0.05,
    "lr_schedule": "cosine",
    "local_steps": 3,
    "augment": True,
    "clip_norm": 1.0,
    "weight_decay": 2e-4,
}
ARMS: list[dict[str, Any]] = [
    {"normalizer": "bn", "decay_norm": False},
    {"normalizer": "bn", "clip_norm": 0.0, "momentum": "none"},
    {"normalizer": "fixbn", "freeze_round": 0},
    {"normalizer": "fixbn", "freeze_round": 0, "freeze": "layer"},
    {"normalizer": "gn"},
    {"normalizer": "ln"},
    {"normalizer": "in"},
    {"normalizer": "none", "decay_norm": False},
    {"normalizer": "ws"},
    {"normalizer": "wn"},
]
"""Every normalizer that clients do not keep, in both phases, with and without clipping."""

FUSED = Fused(plain_kernels, "ieee")
"""The operations that call kernels, with the kernels' twin in plain torch."""

BACKENDS = [Loop(), Batched(), pytest.param(FUSED, marks=pytest.mark.slow)]
CLOSE: list[Operations] = [Batched(), FUSED]


def chosen(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**TRIAL, **changes})


@pytest.fixture(scope="module")
def noise() -> Dataset:
    """120 training images of 8x8 random pixels in ten classes."""
    make_deterministic(1)
    draw = np.random.RandomState(0)

    def split(count: int) -> Split:
        images = draw.randint(0, 256, (count, 8, 8, 3)).astype(np.uint8)
        return Split(torch.from_numpy(images), torch.from_numpy(draw.randint(0, 10, count)))

    return Dataset(split(120), split(10), 10, (120.0,) * 3, (60.0,) * 3, "0" * 32, ())


def federation(config: TrainConfig, data: Dataset) -> fedavg._Federation:
    return fedavg._Federation(config, data, CPU)


def lanes_of(config: TrainConfig, operations: Operations, count: int = 3) -> Lanes:
    return Lanes(config, models.build(config, 3, 8, 10), count, CPU, operations)


def velocities(trial: fedavg._Federation, members: Sequence[int]) -> list[Tensor | None]:
    """Copy the velocity that each client goes on from."""
    momentum = trial.momentum
    if momentum.kind == "global":
        return [momentum.server.clone() for _ in members]
    return [momentum.kept[m].clone() if m in momentum.kept else None for m in members]


def train(
    trial: fedavg._Federation,
    made: Lanes,
    round: int,
    members: Sequence[int],
    spoiled: Sequence[int] = (),
    lr: float | Tensor | None = None,
) -> list[Trained]:
    """Train clients in lanes, from the trial's state. The images of spoiled lanes are NaN."""
    config = trial.config
    frozen = config.frozen(round)
    made.begin(frozen=frozen, layer_frozen=frozen and config.freeze == "layer")
    made.load(trial.server, velocities(trial, members))
    each = [trial.local.batches(round, m) for m in members]
    read = together(each, trial.local.normalize)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        images, labels = read(step)
        for lane in spoiled:
            images[lane * labels.shape[1] : (lane + 1) * labels.shape[1]] = torch.nan
        return images, labels

    steps = [config.steps(len(trial.samples[m])) for m in members]
    rate = config.lr_in(round) if lr is None else lr
    return list(made.train(members, steps, batch, rate))


def together(batches: Sequence[Iterator[tuple[Tensor, Tensor]]], normalize: Normalize) -> Batch:
    """Return the batches of lanes from each client's own. A short client repeats its last one."""
    latest: dict[int, tuple[Tensor, Tensor]] = {}

    def batch(_step: int) -> tuple[Tensor, Tensor]:
        for lane, each in enumerate(batches):
            latest[lane] = next(each, None) or latest[lane]
        images, labels = zip(*(latest[lane] for lane in range(len(batches))), strict=True)
        return normalize(torch.cat(images)), torch.stack(labels).long()

    return batch


def averaged(trial: fedavg._Federation, weights: Sequence[float], rows: list[Tensor]) -> Tensor:
    average = Average(weights, rows[0])
    for position, row in enumerate(rows):
        average.add(position, row)
    return average.total


def rounds(
    config: TrainConfig, data: Dataset, operations: Operations, count: int
) -> list[tuple[Tensor, Tensor]]:
    """Train rounds of `seq`, and each one from the same state in lanes.

    Return the server's state after each by lanes and by `seq`, and so the clients' velocities.
    """
    trial = federation(config, data)
    made: Lanes | None = None
    pairs = []
    for number in range(1, count + 1):
        drawn = trial.drawn(number)
        made = made or lanes_of(config, operations, len(drawn.members))
        trained = train(trial, made, number, drawn.members)
        server = trial.server.clone()
        _, end = trial.begin(number)
        rows = [client.values.clone() for client in trained]
        server[:end] = averaged(trial, drawn.weights, rows)[:end]
        velocity = [client.velocity.clone() for client in trained]
        loss = drawn.mean([float(client.loss) for client in trained])
        round = trial.train(number, sorted)
        pairs.append((server, trial.server.clone()))
        pairs.append((torch.tensor(loss), torch.tensor(round.train_loss)))
        if config.momentum == "local":
            kept = [trial.momentum.kept[m] for m in drawn.members]
            pairs += zip(velocity, (v.clone() for v in kept), strict=True)
        if config.momentum == "global":
            trained_end = made.trained
            mean = averaged(trial, drawn.weights, velocity)[:trained_end]
            pairs.append((mean, trial.momentum.server[:trained_end].clone()))
    return pairs


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def distance(pair: tuple[Tensor, Tensor], start: Tensor) -> float:
    """Return the distance of the lanes' state to that of `seq`, relative to the round's update."""
    ours, theirs = pair
    return float((ours - theirs).norm() / (theirs - start).norm())


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_a_loop_of_lanes_is_a_round_of_seq_bit_for_bit(
    arm: dict[str, Any], dtype: str, noise: Dataset
) -> None:
    """The server's state and the mean loss after three steps of three clients are equal."""
    for ours, theirs in rounds(chosen(**arm, dtype=dtype), noise, Loop(), 1):
        assert bits(ours) == bits(theirs)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", ARMS, ids=str)
@pytest.mark.parametrize("operations", CLOSE, ids=lambda o: type(o).__name__)
def test_batched_and_fused_lanes_are_seq_to_the_rounding_of_float64(
    operations: Operations, arm: dict[str, Any], noise: Dataset
) -> None:
    """The state differs by less than 1e-12 of the round's update.

    Images are not augmented. The constant border of a crop can give activations of zero under ws,
    because its rows sum to zero. The sign of a rounding error would then decide ReLU's gradient.
    """
    config = chosen(**arm, dtype="float64", augment=False)
    start = federation(config, noise).server
    state, loss = rounds(config, noise, operations, 1)
    assert distance(state, start) < 1e-12
    assert abs(float(loss[0]) - float(loss[1])) < 1e-12


@pytest.mark.parametrize("momentum", ["none", "reset", "local", "global"])
@pytest.mark.parametrize("freeze", ["statistics", "layer"])
def test_lanes_carry_the_momentum_through_both_phases(
    momentum: str, freeze: str, noise: Dataset
) -> None:
    """Three rounds of three of five clients, frozen after the first, are those of `seq`."""
    config = chosen(
        model="cnn", normalizer="fixbn", freeze_round=1, freeze=freeze, momentum=momentum,
        clients=5, participation=0.6,
    )  # fmt: skip
    for ours, theirs in rounds(config, noise, Loop(), 3):
        assert bits(ours) == bits(theirs)


@pytest.mark.parametrize("normalizer", ["bn", "gn"])
@pytest.mark.parametrize("momentum", ["reset", "local"])
def test_a_lane_rests_after_its_last_step(normalizer: str, momentum: str, noise: Dataset) -> None:
    """Clients of unequal local steps end with the state, velocity and loss that `seq` gives."""
    config = chosen(
        model="cnn", normalizer=normalizer, momentum=momentum, local_steps=None, local_epochs=2,
        partition="dirichlet-class", alpha=0.5,
    )  # fmt: skip
    trial = federation(config, noise)
    steps = [config.steps(len(samples)) for samples in trial.samples]
    assert min(map(len, trial.samples)) >= config.batch_size
    assert len(set(steps)) > 1
    for ours, theirs in rounds(config, noise, Loop(), 2):
        assert bits(ours) == bits(theirs)


@pytest.mark.parametrize("operations", BACKENDS, ids=lambda o: type(o).__name__)
def test_a_lane_at_rest_does_not_feel_its_own_images(
    operations: Operations, noise: Dataset
) -> None:
    """Steps on images of NaN leave the state and the velocity of a lane that rests unchanged."""
    config = chosen(momentum="local")
    trial = federation(config, noise)
    made = lanes_of(config, operations)
    train(trial, made, 1, [0, 1, 2])
    values, velocity = made.values[1].clone(), made.velocity[1].clone()
    made.active.copy_(torch.tensor([True, False, True]))
    images = torch.full((12, 3, 8, 8), torch.nan).contiguous(memory_format=torch.channels_last)
    made.step(images, torch.zeros(3, 4, dtype=torch.int64), 0.1)
    assert bits(made.values[1]) == bits(values)
    assert bits(made.velocity[1]) == bits(velocity)
    assert not torch.isfinite(made.values[0]).all()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", [ARMS[0], *ARMS[2:]], ids=str)
@pytest.mark.parametrize("operations", BACKENDS, ids=lambda o: type(o).__name__)
def test_a_lane_does_not_depend_on_the_others(
    operations: Operations, arm: dict[str, Any], noise: Dataset
) -> None:
    """A client is bitwise the same alone, among three or seven, at any place, and next to NaN."""
    config = chosen(**arm, clients=7, local_steps=2, batch_size=3)
    trial = federation(config, noise)
    alone = train(trial, lanes_of(config, operations, 1), 1, [0])[0]
    wanted = bits(alone.values), bits(alone.velocity), bits(alone.loss)
    for members, spoiled in (
        ([0, 1, 2], []),
        ([1, 2, 0], []),
        ([4, 3, 2, 1, 0, 5, 6], []),
        ([1, 0, 2], [0, 2]),
    ):
        made = lanes_of(config, operations, len(members))
        place = members.index(0)
        lane = train(trial, made, 1, members, spoiled)[place]
        assert (bits(lane.values), bits(lane.velocity), bits(lane.loss)) == wanted
        for other in spoiled:
            assert not torch.isfinite(made.values[other]).all()


@pytest.mark.parametrize(
    "model",
    [
        "cnn",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
    ],
)
def test_other_models_train_in_lanes(model: str, noise: Dataset) -> None:
    """A step of SmallCNN and of torchvision's ResNets, whose last maps are 1x1."""
    config = chosen(model=model, dtype="float64", local_steps=1, clients=2)
    trial = federation(config, noise)
    start = trial.server.clone()
    exact = train(trial, lanes_of(config, Loop(), 2), 1, [0, 1])
    close = [train(trial, lanes_of(config, other, 2), 1, [0, 1]) for other in CLOSE]
    trial.train(1, sorted)
    assert bits(averaged(trial, [0.5, 0.5], [c.values for c in exact])) == bits(trial.server)
    for clients in close:
        state = averaged(trial, [0.5, 0.5], [c.values for c in clients])
        assert distance((state, trial.server), start) < 1e-12


@pytest.mark.parametrize("norm", [BatchNorm, InstanceNorm])
@pytest.mark.parametrize("operations", BACKENDS, ids=lambda o: type(o).__name__)
def test_a_map_of_one_pixel_is_treated_as_by_one_model(
    operations: Operations, norm: type[nn.Module]
) -> None:
    """A single value per channel has no variance: lanes give the logits of their own models."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), MeanPool(), nn.Linear(4, 2)).double()

    made = Lanes(chosen(dtype="float64"), model(), 2, CPU, operations)
    made.values.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    before = made.values.clone()
    images = torch.rand(2, 3, 1, 1, dtype=torch.float64)
    logits = made.model(images)
    assert bits(made.values) == bits(before)
    for lane in range(2):
        single = model()
        Vector(single, CPU).values.copy_(before[lane])
        wanted = single(images[lane : lane + 1])
        torch.testing.assert_close(logits[lane : lane + 1], wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("momentum", ["local", "global"])
def test_lanes_remember_nothing_between_rounds(momentum: str, noise: Dataset) -> None:
    """New lanes train round 2 of a resumed trial as the old lanes train that of the whole one."""
    config = chosen(model="cnn", momentum=momentum)
    trial = federation(config, noise)
    old = lanes_of(config, Loop())
    train(trial, old, 1, [0, 1, 2])
    state = trial.train(1, sorted).state()
    resumed = federation(config, noise)
    resumed.restore(state)
    again = train(resumed, lanes_of(config, Loop()), 2, [0, 1, 2])
    for ours, theirs in zip(train(trial, old, 2, [0, 1, 2]), again, strict=True):
        assert bits(ours.values) == bits(theirs.values)
        assert bits(ours.velocity) == bits(theirs.velocity)
        assert torch.any(ours.velocity != 0)


@pytest.mark.parametrize("operations", BACKENDS, ids=lambda o: type(o).__name__)
def test_the_learning_rate_may_be_a_tensor(operations: Operations, noise: Dataset) -> None:
    """A rate in a tensor gives the step of the same rate as a number, up to rounding."""
    config = chosen(model="cnn", dtype="float64", local_steps=1)
    trial = federation(config, noise)
    start = trial.server
    number = train(trial, lanes_of(config, operations), 1, [0, 1, 2], lr=0.05)
    rate = torch.tensor(0.05, dtype=torch.float64)
    tensor = train(trial, lanes_of(config, operations), 1, [0, 1, 2], lr=rate)
    for ours, theirs in zip(tensor, number, strict=True):
        assert distance((ours.values, theirs.values), start) < 1e-14


class _Waits(TorchDispatchMode):
    """Collects the operations that copy a number from the device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "bincount"}:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("operations", BACKENDS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("normalizer", ["bn", "gn", "ws"])
def test_a_step_never_waits_for_the_device(
    operations: Operations, normalizer: str, noise: Dataset
) -> None:
    """A local step has no operation that a CUDA graph could not hold."""
    config = chosen(model="cnn", normalizer=normalizer)
    made = lanes_of(config, operations)
    images = torch.rand(12, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(3, 4, dtype=torch.int64)
    with _Waits() as tape:
        made.step(images, labels, torch.tensor(0.1))
    assert tape.names == set()


@pytest.mark.parametrize(
    ("model", "normalizer", "why"),
    [
        ("mobilenet_v2", "bn", "the layer of the model is a MobileNetV2, which cannot be trained"),
        ("vit_tiny", "ln", "the layer of the model is a VisionTransformer, which cannot be"),
        ("timm:test_resnet", "gn", "the layer of the model is a ResNet, which cannot be trained"),
    ],
)
def test_models_of_other_layers_are_refused(model: str, normalizer: str, why: str) -> None:
    """Depthwise convolutions, dropout, attention, and layers with activations."""
    made = models.build(chosen(model=model, normalizer=normalizer), 3, 8, 10)
    assert why in (refusal(made) or "")


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "model", ["cnn", "resnet20", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("normalizer", ["bn", "fixbn", "gn", "ln", "in", "none", "wn", "ws"])
def test_every_resnet_can_be_trained_in_lanes(model: str, normalizer: str) -> None:
    """And `cnn`. Lanes refuse none of our own normalizers that keep nothing with the clients."""
    arm = {"freeze_round": 1} if normalizer == "fixbn" else {}
    assert (
        refusal(models.build(chosen(model=model, normalizer=normalizer, **arm), 3, 8, 10)) is None
    )


class _Scaled(nn.Conv2d):
    """A convolution whose forward pass lanes do not know."""


class _Own(nn.Sequential):
    """A container of this module, whose forward pass could join two lanes."""


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "the layer 0 is a convolution with groups = 2: lanes need"),
        (nn.Conv2d(4, 4, 3, dilation=2), r"dilation = \(2, 2\): lanes need dilation = 1"),
        (nn.Conv2d(4, 4, 3, padding="same"), "not square or not padded with zeros"),
        (nn.Conv2d(4, 4, (3, 1)), "not square or not padded with zeros"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "not padded with zeros"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), "unknown parametrization"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "Linear with a parametrization"),
        (_Scaled(4, 4, 3), "is a _Scaled, which cannot be trained in lanes"),
        (_Own(nn.ReLU()), "is a _Own, which cannot be trained in lanes"),
        (nn.BatchNorm2d(4), "is a BatchNorm2d, which cannot be trained in lanes"),
        (nn.GroupNorm(2, 4, affine=False), "GroupNorm without scale and shift"),
        (nn.Dropout(), "is a Dropout, which cannot be trained in lanes"),
        (nn.AdaptiveAvgPool2d(2), "pools to 2: lanes can only average over all pixels"),
        (nn.MaxPool2d(3, 2), "lanes can only pool squares of 2x2 pixels"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_layer_that_cannot_be_exchanged_is_refused(layer: nn.Module, why: str) -> None:
    """The reason names the layer's path, and lanes raise the same one."""
    model = nn.Sequential(layer)
    reason = refusal(model)
    assert reason is not None
    assert re.search(why, reason)
    with pytest.raises(ValueError, match=why):
        Lanes(chosen(), model, 2, CPU, Loop())


def test_bfloat16_casts_the_weights_once_per_step(noise: Dataset) -> None:
    """The kernels see weights in bfloat16 and scales in float32, and the rows stay in float32."""
    seen: set[tuple[str, torch.dtype]] = set()

    class Watched(Fused):
        def conv(
            self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
        ) -> Tensor:
            assert isinstance(weight, Tensor)
            seen.update({("image", x.dtype), ("weight", weight.dtype)})
            return super().conv(x, weight, bias, stride, padding)

    config = chosen(dtype="bfloat16", normalizer="in")
    made = lanes_of(config, Watched(plain_kernels, "bf16"))
    start = made.values.clone()
    images = torch.rand(12, 3, 8, 8, dtype=torch.bfloat16)
    labels = torch.zeros(3, 4, dtype=torch.int64)
    first = made.step(images.contiguous(memory_format=torch.channels_last), labels, 0.1)
    assert seen == {("image", torch.bfloat16), ("weight", torch.bfloat16)}
    assert made.values.dtype == first.dtype == torch.float32
    assert torch.isfinite(made.values).all()
    low = made.low
    assert low is not None
    assert torch.equal(low, start[:, : low.shape[1]].to(torch.bfloat16))
    assert not torch.equal(made.values[:, : low.shape[1]].to(torch.bfloat16), low)


@pytest.mark.parametrize("normalizer", ["fedbn", "silobn"])
def test_clients_that_keep_layers_are_refused(normalizer: str) -> None:
    """A client's own layers would need rows of their own at the start of a round."""
    config = chosen(model="cnn", normalizer=normalizer)
    with pytest.raises(ValueError, match=f"clients keep layers of {normalizer}"):
        lanes_of(config, Loop())
