"""The same claims on a GPU; skipped where there is none."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from tests.benchmarks.cases import random_images
from tests.unit.trainers.arms import ARMS, JOINT, NORMALIZERS, ROAD, small
from tests.unit.trainers.arms import measured as measured_of
from trainers import evaluate, fedavg, memory
from trainers.config import ALGORITHMS, TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.graph import Cuda, Graphs
from trainers.numerics import make_deterministic, numerics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = "cuda:0"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return random_images(400)


def on_gpu(
    chosen: TrainConfig, made: Dataset, *, after: int = 0, **how: Any
) -> list[tuple[object, ...]]:
    """Every round's measurements and the whole state; of a run that was stopped `after` a round,
    those that follow it.
    """
    state = None
    for measured in itertools.islice(fedavg.run(chosen, made, device=GPU), after):
        state = measured.state()
    return [
        (*measured_of(r), {n: t.cpu().numpy().tobytes() for n, t in r.state().tensors.items()})
        for r in fedavg.run(chosen, made, state, device=GPU, **how)
    ]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_a_run_on_a_gpu_is_repeatable_and_resumes_bit_for_bit(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """Whole, again, and stopped after each round."""
    whole = on_gpu(small(**arm), digits)
    assert on_gpu(small(**arm), digits) == whole
    for after in (1, 2, 3):
        assert on_gpu(small(**arm), digits, after=after) == whole[after:]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_the_order_of_clients_never_shows_on_a_gpu(arm: dict[str, Any], digits: Dataset) -> None:
    """Descending and shuffled, bit for bit as ascending."""
    chosen, shuffle = small(**arm), random.Random(1)
    ascending = on_gpu(chosen, digits)
    assert on_gpu(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == ascending
    assert on_gpu(chosen, digits, visit=lambda m: shuffle.sample(m, len(m))) == ascending


@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
def test_every_model_trains_repeatably_on_augmented_images(
    arm: dict[str, Any], model: str, photos: Dataset
) -> None:
    """Under deterministic algorithms, in float32 and bfloat16."""
    make_deterministic(1)
    more = {"dataset": "cifar10", "model": model, "rounds": 2, "local_steps": 2}
    for dtype in ("float32", "bfloat16"):
        chosen = small(**{**more, **arm, "dtype": dtype})
        assert on_gpu(chosen, photos) == on_gpu(chosen, photos)


@pytest.mark.parametrize(
    ("model", "normalizer"),
    [
        ("resnet50", "bn"),
        ("mobilenet_v2", "gn"),
        ("vit_tiny", "ln"),
        ("timm:test_efficientnet", "bn"),
    ],
)
def test_models_of_torchvision_and_timm_train_repeatably(
    model: str, normalizer: str, photos: Dataset
) -> None:
    """Graphs change no bit. The models have depthwise convolutions, dropout and attention."""
    make_deterministic(1)
    more = {"dataset": "cifar10", "rounds": 2, "local_steps": 4}
    assert_graphs_change_no_bit(small(**more, model=model, normalizer=normalizer), photos)


def assert_graphs_change_no_bit(chosen: TrainConfig, made: Dataset) -> None:
    """Compare every round with that of plain launches, of a resumed trial too."""
    plain = on_gpu(chosen, made, graphs=Graphs(Cuda(torch.device(GPU)), capture=False))
    assert on_gpu(chosen, made) == plain
    for after in range(1, chosen.rounds):
        assert on_gpu(chosen, made, after=after) == plain[after:]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_graphs_change_no_bit_on_a_gpu(
    arm: dict[str, Any],
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over a freeze, with a cosine schedule, and with tests of full and partial batches."""
    monkeypatch.setattr(evaluate, "LARGEST_BATCH", 50)
    assert_graphs_change_no_bit(small(**arm, validation=0.2, lr_schedule="cosine"), digits)
    assert caplog.messages == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_graphs_change_no_bit_of_algorithms_and_optimizers_on_a_gpu(
    algorithm: str, optimizer: str, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a freeze, with a cosine schedule."""
    changes = {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer"}
    chosen = small(algorithm=algorithm, optimizer=optimizer, lr_schedule="cosine", **changes)
    assert_graphs_change_no_bit(chosen, digits)
    assert caplog.messages == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
def test_graphs_change_no_bit_of_augmented_images(
    model: str, dtype: str, photos: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """In each type, over a freeze, and with clients that have fewer samples than a batch."""
    changes = {"normalizer": "fixbn", "freeze_round": 2, "batch_size": 90, "momentum": "global"}
    chosen = small(dataset="cifar10", model=model, dtype=dtype, **changes)
    assert_graphs_change_no_bit(chosen, photos)
    assert caplog.messages == []


def test_graphs_change_no_dropout_on_a_gpu(
    scenes: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """DeepLabv3+ draws the masks of plain launches."""
    assert_graphs_change_no_bit(small(**ROAD, participation=1.0, batch_size=2, rounds=3), scenes)
    assert caplog.messages == []


def test_steps_and_tests_never_wait_for_a_gpu(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch raises an error for an operation that waits."""
    monkeypatch.setattr(evaluate, "LARGEST_BATCH", 100)
    trial = fedavg._Federation(small(), digits, torch.device(GPU))
    trial.evaluate(trial.train(1, sorted))
    trained, _ = trial.begin(2)
    drawn = trial.local.positions(2, 0)
    with trial.stream():
        trial.load(0)
        trial.momentum.start(0)
        steps = trial.local.steps_of(drawn, trained, trial.graphs)
        steps.begin(drawn)
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps.take()
            trial.evaluations[trial.data.test].launch()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    trial.close()


@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
def test_a_gpu_computes_what_a_processor_does(arm: dict[str, Any], digits: Dataset) -> None:
    """In float64, where four rounds leave no room for more than rounding."""
    chosen = small(**arm, dtype="float64")
    here = [r.train_loss for r in fedavg.run(chosen, digits)]
    there = [r.train_loss for r in fedavg.run(chosen, digits, device=GPU)]
    assert there == pytest.approx(here, rel=1e-9)


def test_fixbn_on_a_gpu_is_bn_up_to_its_freeze(digits: Dataset) -> None:
    """Bit for bit: a trunk is shared there too."""
    bn = on_gpu(small(normalizer="bn"), digits)
    fixed = on_gpu(small(normalizer="fixbn", freeze_round=2), digits)
    assert fixed[:2] == bn[:2]
    assert fixed[2:] != bn[2:]


def test_a_state_of_a_processor_goes_on_upon_a_gpu_and_back(digits: Dataset) -> None:
    """It fits; what comes out is not of one kind, which numerics_id tells."""
    chosen = small(normalizer="bn", momentum="local")
    state = next(fedavg.run(chosen, digits)).state()
    after = next(fedavg.run(chosen, digits, state, device=GPU)).state()
    next(fedavg.run(chosen, digits, after))
    ours = numerics(chosen, GPU)
    assert ours != numerics(chosen, "cpu")
    assert (ours["engine"], ours["threads"]) == ("seq/2", "")


def test_a_gpu_s_memory_is_what_an_attempt_took_of_it_at_most() -> None:
    """Forgotten at the next one's beginning."""
    held = torch.ones(64 * 2**20, device=GPU)
    assert memory.taken(GPU) >= 256 * 2**20
    del held
    torch.cuda.empty_cache()
    memory.begin(GPU)
    assert memory.taken(GPU) < 256 * 2**20
    assert memory.total(GPU) == torch.cuda.get_device_properties(GPU).total_memory
