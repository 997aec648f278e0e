"""The engine `stack` on a GPU. A CPU is held to the same claims, with the kernels' twin in torch.

The twin is `plain_kernels`, so that every function of this file also runs without a GPU.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.cases import random_images
from tests.triton_interpreter import kernels
from tests.unit.trainers import plain_kernels
from tests.unit.trainers.arms import MOMENTA, NORMALIZERS, config, measured, small
from trainers import engines, fedavg, models, stack
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.graph import Cuda, Graphs
from trainers.lane_kernels import DOTS, Fused
from trainers.lane_operations import Operations, Weight
from trainers.lanes import Lanes
from trainers.numerics import make_deterministic, numerics

Rounds = list[tuple[object, ...]]

GPU = "cuda:0"

ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)


def on_gpu(test: Any) -> Any:
    """Mark a test that needs a GPU."""
    for mark in ON_GPU:
        test = mark(test)
    return test


@dataclass(frozen=True)
class Place:
    """A device, and the kernels that run on it."""

    device: str

    def operations(self, dot: str = "ieee") -> Operations:
        """Return the operations of lanes, with products of this precision."""
        return Fused(kernels if self.device == GPU else plain_kernels, dot)

    def run(self, chosen: TrainConfig, made: Dataset, *start: Any, **how: Any) -> Rounds:
        """Train a trial. Return every round's measurements and whole state."""
        how = {"operations": self.operations(DOTS[chosen.dtype])} | how
        rounds = fedavg.run(chosen, made, *start, device=self.device, **how)
        return [(*measured(r), contents(r.state())) for r in rounds]

    def states(self, chosen: TrainConfig, made: Dataset, **how: Any) -> list[fedavg.State]:
        """Train a trial. Return its state after each round."""
        how = {"operations": self.operations(DOTS[chosen.dtype])} | how
        return [r.state() for r in fedavg.run(chosen, made, device=self.device, **how)]


PLACES = [
    pytest.param(Place("cpu"), id="cpu", marks=pytest.mark.slow),
    pytest.param(Place(GPU), id="cuda", marks=ON_GPU),
]

everywhere = pytest.mark.parametrize("place", PLACES)

STACKED = [arm for arm in NORMALIZERS if arm["normalizer"] not in ("fedbn", "silobn")]
"""The normalizers of which clients keep nothing, in both kinds of freeze."""

ARMS: list[dict[str, Any]] = [
    {**arm, "momentum": momentum}
    for arm, momentum in zip(STACKED, itertools.cycle(MOMENTA), strict=False)
]
ARMS += [
    {"normalizer": "bn", "local_steps": None, "local_epochs": 1, "momentum": "local"},
    {"normalizer": "gn", "clip_norm": 0.0, "lr_schedule": "cosine", "validation": 0.2},
]

BFLOAT16 = [
    {"normalizer": "bn", "dtype": "bfloat16"},
    {"normalizer": "gn", "dtype": "bfloat16"},
]

each_arm = pytest.mark.parametrize("arm", [*ARMS, *BFLOAT16], ids=str)

everywhere_each_arm = pytest.mark.parametrize(
    ("place", "arm"),
    [pytest.param(Place("cpu"), arm, id=f"cpu-{arm}", marks=pytest.mark.slow) for arm in ARMS]
    + [pytest.param(Place(GPU), a, id=f"cuda-{a}", marks=ON_GPU) for a in [*ARMS, *BFLOAT16]],
)


@pytest.fixture(autouse=True)
def deterministic() -> None:
    make_deterministic(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return random_images(400)


def contents(state: fedavg.State) -> dict[str, bytes]:
    """Return the bytes of a state's tensors, by name."""
    return {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}


@everywhere_each_arm
def test_a_stacked_trial_is_repeatable_and_resumes_bit_for_bit(
    place: Place, arm: dict[str, Any], digits: Dataset
) -> None:
    """It trains twice, then from its own state after each round."""
    chosen = small(**arm)
    whole = place.run(chosen, digits)
    assert place.run(chosen, digits) == whole
    for after, state in enumerate(place.states(chosen, digits)[:-1], 1):
        assert place.run(chosen, digits, state) == whole[after:]


@everywhere
def test_the_order_of_clients_never_shows(place: Place, digits: Dataset) -> None:
    """A stacked trial has one order of lanes, for every order of visits."""
    chosen = small(normalizer="bn")
    ascending = place.run(chosen, digits)
    assert place.run(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == ascending


def test_stacked_activations_are_in_bfloat16(digits: Dataset) -> None:
    """The convolutions of a trial in bfloat16 read images in bfloat16."""
    seen = set()

    class Watched(Fused):
        def conv(
            self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
        ) -> Tensor:
            seen.add(x.dtype)
            return super().conv(x, weight, bias, stride, padding)

    chosen = small(normalizer="bn", dtype="bfloat16", rounds=1)
    watched = Watched(plain_kernels, "bf16")
    assert len(list(fedavg.run(chosen, digits, operations=watched))) == 1
    assert seen == {torch.bfloat16}


def lane_bits(
    place: Place, chosen: TrainConfig, clients: Sequence[int], steps: int = 2
) -> dict[int, bytes]:
    """Train some clients in lanes, each on random images of its own. Return each lane's bytes."""
    device = torch.device(place.device)
    model = models.build(chosen, 3, 16, 10).to(device)
    dot = DOTS[chosen.dtype]
    made = Lanes(chosen, model, len(clients), device, place.operations(dot))
    frozen = chosen.frozen(1)
    made.begin(frozen=frozen, layer_frozen=frozen and chosen.freeze == "layer")
    made.load(made.values[0].clone(), [None] * len(clients))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for client in clients:
            draw = torch.Generator().manual_seed(1000 * client + step)
            images.append(torch.randn(chosen.batch_size, 3, 16, 16, generator=draw))
            labels.append(torch.randint(0, 10, (chosen.batch_size,), generator=draw))
        dtype = torch.bfloat16 if made.low is not None else torch.float32
        lane_major = torch.cat(images).to(device, dtype, memory_format=torch.channels_last)
        return lane_major, torch.stack(labels).to(device)

    trained = made.train(clients, [steps] * len(clients), batch, chosen.lr)
    return {t.client: t.values.cpu().numpy().tobytes() for t in trained}


@everywhere
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", [*STACKED, {"normalizer": "fixbn", "freeze_round": 0}], ids=str)
def test_a_lane_has_the_same_bits_at_every_place_and_number_of_lanes(
    place: Place, arm: dict[str, Any], dtype: str
) -> None:
    """A client trains alone, first of three, and last of ten."""
    chosen = small(dataset="cifar10", model="cnn", batch_size=4, **{**arm, "dtype": dtype})
    alone = lane_bits(place, chosen, [3])[3]
    for clients in ([3, 1, 2], [2, 1, 3], [*range(10, 19), 3]):
        assert lane_bits(place, chosen, clients)[3] == alone


@everywhere
@pytest.mark.parametrize("freeze", ["statistics", "layer"])
def test_a_fork_from_a_trunk_is_the_trial_itself(
    place: Place, freeze: str, digits: Dataset
) -> None:
    """FIXBN goes on from BN's state at T*, bit for bit as from round 1."""
    fixed = small(normalizer="fixbn", freeze_round=2, freeze=freeze)
    whole = place.run(fixed, digits)
    trunk = place.states(small(normalizer="bn"), digits)
    assert contents(trunk[1]) == whole[1][-1]
    assert contents(trunk[2]) != whole[2][-1]
    assert place.run(fixed, digits, trunk[1]) == whole[2:]


@pytest.mark.parametrize(
    ("place", "dtype"),
    [
        pytest.param(Place("cpu"), "float32", id="cpu", marks=pytest.mark.slow),
        pytest.param(Place(GPU), "float32", id="cuda", marks=ON_GPU),
        pytest.param(Place(GPU), "bfloat16", id="cuda-bfloat16", marks=ON_GPU),
    ],
)
def test_a_trial_alone_is_the_trial_with_three_neighbors(
    place: Place, dtype: str, digits: Dataset
) -> None:
    """Four threads of one process train at the same time, each with its own stream and graphs."""
    trials = [
        small(normalizer="bn", dtype=dtype),
        small(normalizer="gn", dtype=dtype, seed=1),
        small(normalizer="fixbn", freeze_round=2, dtype=dtype, batch_size=12),
        small(normalizer="ws", dtype=dtype, clients=4, momentum="global"),
    ]
    alone = [place.run(chosen, digits) for chosen in trials]
    barrier = Barrier(len(trials))

    def with_neighbors(chosen: TrainConfig) -> Rounds:
        barrier.wait()
        return place.run(chosen, digits)

    with ThreadPoolExecutor(len(trials)) as threads:
        assert list(threads.map(with_neighbors, trials)) == alone


EXACT = [
    *({**arm, "freeze_round": 0} if "freeze_round" in arm else arm for arm in STACKED),
    {"normalizer": "bn", "clip_norm": 0.0, "momentum": "none"},
    {"normalizer": "bn", "local_steps": None, "local_epochs": 1, "batch_size": 64, "alpha": 10.0},
]
"""The arms of one round: FIXBN is frozen in it."""


def update_error(place: Place, arm: dict[str, Any], made: Dataset, dot: str = "ieee") -> float:
    """Return the error of one stacked round in float32, relative to the length of its update.

    The exact round is that of `seq` in float64 on a CPU, from the same weights.
    """
    chosen = small(**{**arm, "rounds": 1})
    start = fedavg._Federation(chosen, made, torch.device("cpu")).state(0)
    double = fedavg.State(0, {name: t.double() for name, t in start.tensors.items()})
    exact = next(fedavg.run(small(**{**arm, "rounds": 1, "dtype": "float64"}), made, double))
    done = fedavg.run(chosen, made, start, device=place.device, operations=place.operations(dot))
    after = next(done).state().tensors["server"].double()
    right = exact.state().tensors["server"]
    update = right - double.tensors["server"]
    return float((after - right).norm() / update.norm())


@everywhere
@pytest.mark.parametrize("arm", EXACT, ids=str)
def test_a_round_in_ieee_is_near_the_exact_one(
    place: Place, arm: dict[str, Any], digits: Dataset
) -> None:
    """The error is at most 1e-5 of the update, which float64 computes on a CPU."""
    assert update_error(place, arm, digits) <= 1e-5


@on_gpu
@pytest.mark.parametrize("arm", EXACT, ids=str)
def test_a_round_in_tf32x3_is_near_the_exact_one(arm: dict[str, Any], digits: Dataset) -> None:
    """Three products of tensor cores keep at least 20 bits of the 24."""
    assert update_error(Place(GPU), arm, digits, "tf32x3") <= 1e-4


PRECISIONS = [("float32", "ieee"), ("float32", "tf32x3"), ("bfloat16", "bf16")]


def accuracies(chosen: Sequence[TrainConfig], made: Dataset, **how: Any) -> list[float]:
    """Train some trials. Return the test accuracy of each after its last round."""
    results = []
    for trial in chosen:
        *_, last = fedavg.run(trial, made, **how)
        assert last.test_accuracy is not None
        results.append(last.test_accuracy)
    return results


def assert_as_accurate_as_seq(
    place: Place, made: Dataset, seeds: int, precisions: Sequence[tuple[str, str]], **fields: Any
) -> None:
    """Compare mean accuracies over seeds. They differ by three standard errors at most."""
    fields["evaluate_every"] = fields["rounds"]
    trials = [config(**fields, seed=seed) for seed in range(seeds)]
    plain = accuracies(trials, made, device=place.device)
    assert statistics.fmean(plain) > 2 / made.classes  # it has learned something
    error = statistics.stdev(plain) * (2 / seeds) ** 0.5
    for dtype, dot in precisions:
        trials = [config(**fields, seed=seed, dtype=dtype) for seed in range(seeds)]
        how = {"device": place.device, "operations": place.operations(dot)}
        difference = statistics.fmean(accuracies(trials, made, **how)) - statistics.fmean(plain)
        assert abs(difference) <= 3 * error + 1 / len(made.test.labels), (dtype, dot)


@everywhere
@pytest.mark.parametrize("arm", [{"normalizer": "bn"}, {"normalizer": "gn"}], ids=str)
def test_every_precision_is_as_accurate_as_seq_on_digits(
    place: Place, arm: dict[str, Any], digits: Dataset
) -> None:
    """A CPU trains fewer rounds, and float32 alone."""
    real = place.device == GPU
    precisions = PRECISIONS if real else PRECISIONS[:1]
    size = {"rounds": 20} if real else {"rounds": 4, "clients": 4}
    seeds = 5 if real else 3
    assert_as_accurate_as_seq(place, digits, seeds, precisions, **(arm | size | {"alpha": 1.0}))


CIFAR: dict[str, Any] = {
    "dataset": "imagefolder",
    "model": "resnet20",
    "partition": "iid",
    "alpha": None,
    "clients": 4,
    "rounds": 20,
    "local_steps": 10,
}


@on_gpu
@pytest.mark.data
@pytest.mark.parametrize("arm", [{"normalizer": "bn"}, {"normalizer": "gn"}], ids=str)
def test_every_precision_is_as_accurate_as_seq_on_real_photos(
    arm: dict[str, Any], some_cifar10: Path
) -> None:
    """ResNet20 trains on 400 images of CIFAR-10 with augmentation, and is tested on 100."""
    made = datasets.load("imagefolder", some_cifar10)
    assert_as_accurate_as_seq(Place(GPU), made, 5, PRECISIONS, **CIFAR | arm)


@everywhere
@pytest.mark.parametrize("momentum", MOMENTA)
def test_states_of_both_engines_have_one_layout(
    place: Place, momentum: str, digits: Dataset
) -> None:
    """Names, shapes and types of their tensors are equal. Each engine resumes the other's state."""
    chosen = small(normalizer="bn", momentum=momentum, server_momentum=0.5, rounds=2)
    stacked = place.states(chosen, digits)
    plain = place.states(chosen, digits, operations=None)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert layout(ours) == layout(theirs)
    assert len(place.run(chosen, digits, plain[0])) == 1
    assert len(place.run(chosen, digits, stacked[0], operations=None)) == 1


def layout(state: fedavg.State) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the shape and type of each tensor of a state, by name."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.tensors.items()}


@on_gpu
@each_arm
def test_graphs_change_no_bit_of_a_stacked_trial(
    arm: dict[str, Any], digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Each round is that of plain launches, and no capture has failed."""
    place, chosen = Place(GPU), small(**arm)
    plain = Graphs(Cuda(torch.device(GPU)), capture=False)
    assert place.run(chosen, digits) == place.run(chosen, digits, graphs=plain)
    assert caplog.messages == []


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
@pytest.mark.parametrize("arm", STACKED, ids=str)
def test_every_model_trains_repeatably_on_augmented_images_with_and_without_graphs(
    arm: dict[str, Any], model: str, dtype: str, photos: Dataset
) -> None:
    """Runs with graphs and with plain launches are equal, bit for bit. So is a resumed run."""
    place = Place(GPU)
    more = {"dataset": "cifar10", "model": model, "rounds": 3, "local_steps": 2}
    chosen = small(**{**more, **arm, "dtype": dtype})
    whole = place.run(chosen, photos)
    plain = Graphs(Cuda(torch.device(GPU)), capture=False)
    assert place.run(chosen, photos, graphs=plain) == whole
    assert place.run(chosen, photos, place.states(chosen, photos)[0]) == whole[1:]


@on_gpu
@each_arm
def test_a_worker_on_a_gpu_chooses_stack(arm: dict[str, Any], digits: Dataset) -> None:
    """The chosen engine trains the rounds of this file's tests."""
    chosen = small(**arm)
    assert engines.choose(chosen, digits, GPU).engine == "stack"
    rounds = stack.run(chosen, digits, device=GPU)
    assert [(*measured(r), contents(r.state())) for r in rounds] == Place(GPU).run(chosen, digits)
    ours = stack.numerics_of(chosen, GPU, 1)
    assert ours["engine"] == "stack/1"
    assert ours != numerics(chosen, GPU)


@each_arm
def test_each_arm_suits_the_engine_but_for_its_device(arm: dict[str, Any], digits: Dataset) -> None:
    """Its layers can be stacked, and every client has the samples of a batch."""
    chosen = small(**arm)
    assert stack._refused_layers(chosen, digits) is None
    assert stack._refused_clients(chosen, digits) is None
