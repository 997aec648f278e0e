"""A step and a test can be captured: a tape shows no wait for the device and no stale number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.cases import random_images
from tests.tape import Tape
from tests.unit.trainers.arms import JOINT, MOMENTA, NORMALIZERS, ROAD, SERVER_STATISTICS, small
from tests.unit.trainers.fake_cuda import FakeCuda
from trainers import fedavg
from trainers.adam import Adam
from trainers.config import ALGORITHMS
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.graph import Graphs
from trainers.local import LocalTraining
from trainers.numerics import make_deterministic


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return random_images(40)


def in_device_form(made: Dataset, **changes: Any) -> Any:
    """Return a trial whose steps have the form that a GPU captures. Nothing is captured here."""
    fields = {"lr_schedule": "cosine", "participation": 1.0, "batch_size": 2, **changes}
    graphs = Graphs(FakeCuda(), capture=False)
    return fedavg._Federation(small(**fields), made, torch.device("cpu"), graphs)


def tapes(trial: Any, client: int = 0) -> list[Tape]:
    """Return tapes of the first two steps of a client in each of two rounds of one phase."""
    taped = []
    for round in (1, 2):
        trained, _ = trial.begin(round)
        trial.load(client)
        trial.momentum.begin_round([1.0], trained)
        trial.algorithm.begin_round([1.0], trained)
        turn = trial.turn(round, client, 0)
        local = trial.local
        local.start(turn)
        drawn = local.positions(round, client)
        local.lr.fill_(local.config.lr_in(round))
        steps = local.steps_of(drawn, trained, trial.graphs)
        steps.begin(drawn)
        for step in range(2):
            local.seed(round, client, step)
            with Tape() as tape:
                steps.take()
            taped.append(tape)
        trial.algorithm.end_client(turn, trial.vector.values[:trained])
        trial.momentum.end(client, 0, trial.momentum.velocity)
        trial.momentum.end_round()
    return taped


def assert_steps_can_be_captured(trial: Any) -> None:
    first, *others = tapes(trial)
    assert first.waits == []
    assert first.kernels["convolution_backward"] > 0
    for other in others:
        assert other.waits == []
        assert other.operations == first.operations


def assert_tests_do_not_wait(trial: Any) -> None:
    trial.begin(1)
    trial.score(trial.data.test, None)
    evaluation = trial.evaluations[trial.data.test]
    with Tape() as tape:
        evaluation.launch()
    assert tape.waits == []
    assert tape.kernels["argmax"] > 0
    with Tape() as tape:
        evaluation.read()
    assert tape.waits.count("cpu") == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", [*NORMALIZERS, *SERVER_STATISTICS, *JOINT], ids=str)
def test_a_step_of_every_normalizer_and_momentum_can_be_captured(
    arm: dict[str, Any], dtype: str, digits: Dataset
) -> None:
    """Before and after a freeze."""
    for momentum in MOMENTA:
        more = {"freeze_round": 4} if "freeze_round" in arm else {}
        trial = in_device_form(digits, **{**arm, **more, "momentum": momentum, "dtype": dtype})
        assert_steps_can_be_captured(trial)
        assert_tests_do_not_wait(trial)
        if more:
            frozen = {**arm, "freeze_round": 0, "momentum": momentum, "dtype": dtype}
            assert_steps_can_be_captured(in_device_form(digits, **frozen))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_step_of_every_algorithm_and_optimizer_can_be_captured(
    algorithm: str, optimizer: str, digits: Dataset
) -> None:
    """Adam counts its steps on the device, and control variates keep their place."""
    changes = {"algorithm": algorithm, "optimizer": optimizer, "normalizer": "fixbn"}
    for frozen in ({"freeze_round": 4}, {"freeze_round": 0, "freeze": "layer"}):
        assert_steps_can_be_captured(in_device_form(digits, **changes, **frozen))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_on_a_device_is_torch_s_own_that_is_capturable(optimizer: str) -> None:
    """Bit for bit, on gradients of any sizes; the count begins again in each round.

    Torch captures on a GPU alone. Its option `differentiable` takes the same operations.
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    torch.manual_seed(0)
    values = torch.randn(160)
    ours = Adam(small(optimizer=optimizer, weight_decay=0.1), 160, values)
    for lr in (torch.tensor(0.01), torch.tensor(0.03)):
        ours.start()
        twin = values.clone()
        torchs = kind([twin], lr=lr, weight_decay=0.1, differentiable=True)
        for number in range(1, 6):
            gradient = torch.randn(160) * 10.0**-number
            twin.grad = gradient.clone()
            torchs.step()
            if optimizer == "adam":
                gradient.add_(values, alpha=0.1)
            ours.step(values, gradient, 160, lr)
            assert torch.equal(values, twin)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_on_augmented_images_can_be_captured(dtype: str, photos: Dataset) -> None:
    """ResNet20 crops and flips its images on the device."""
    trial = in_device_form(
        photos, dataset="cifar10", model="resnet20", partition="iid", clients=2, dtype=dtype
    )
    assert_steps_can_be_captured(trial)
    assert_tests_do_not_wait(trial)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", [{"normalizer": "bn"}, {"normalizer": "gn"}], ids=str)
def test_a_step_of_resnet18_can_be_captured(arm: dict[str, Any], digits: Dataset) -> None:
    """Its layers are torchvision's."""
    trial = in_device_form(digits, **arm, model="resnet18", clients=2, local_steps=2)
    assert_steps_can_be_captured(trial)
    assert_tests_do_not_wait(trial)


@pytest.mark.parametrize(
    ("model", "normalizer"),
    [
        ("mobilenet_v2", "bn"),
        ("vit_tiny", "ln"),
        ("timm:test_efficientnet", "gn"),
        pytest.param("resnet50", "bn", marks=pytest.mark.slow),
    ],
)
def test_a_step_of_a_model_of_torchvision_or_timm_can_be_captured(
    model: str, normalizer: str, digits: Dataset
) -> None:
    """With dropout, with attention, and with activations inside of normalization layers."""
    trial = in_device_form(digits, model=model, normalizer=normalizer, clients=2, local_steps=2)
    assert_steps_can_be_captured(trial)
    assert_tests_do_not_wait(trial)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_deeplabv3plus_can_be_captured(dtype: str, scenes: Dataset) -> None:
    """With dropout, and pixels that are void."""
    trial = in_device_form(scenes, **ROAD, local_steps=2, dtype=dtype)
    assert_steps_can_be_captured(trial)
    assert_tests_do_not_wait(trial)


def test_the_tape_shows_a_planted_wait(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is read in the step; each way to read a tensor."""
    plain = LocalTraining.loss

    def read(self: LocalTraining, logits: Tensor, labels: Tensor) -> Tensor:
        loss = plain(self, logits, labels)
        return loss if loss > 0 else -loss

    monkeypatch.setattr(LocalTraining, "loss", read)
    assert "_local_scalar_dense" in tapes(in_device_form(digits))[0].waits
    some = torch.tensor([1, 0, 1])
    for wait in (
        lambda: some[some > 0],
        some.bincount,
        some.nonzero,
        some.cpu,
        some.tolist,
        lambda: some.sum().item(),
        lambda: torch.equal(some, some),
        lambda: torch.unique(some),
        lambda: some.masked_select(some > 0),
        lambda: some.index_put((some > 0,), some[0]),
        lambda: some.to("cpu"),
        lambda: some.to(device="cpu"),
        lambda: torch.tensor(1.0),
    ):
        with Tape() as tape:
            wait()
        assert tape.waits


def test_the_tape_shows_a_planted_number(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate of the round as a number, which a graph would repeat in every round."""
    plain = LocalTraining.descend

    def planted(self: LocalTraining, trained: int, lr: float | Tensor) -> None:
        plain(self, trained, float(lr) if isinstance(lr, Tensor) else lr)

    monkeypatch.setattr(LocalTraining, "descend", planted)
    first, second, third, _ = (tape.operations for tape in tapes(in_device_form(digits)))
    assert first == second
    differ = [(one, other) for one, other in zip(first, third, strict=True) if one != other]
    assert [one[0] for one, _ in differ] == ["add_"]
