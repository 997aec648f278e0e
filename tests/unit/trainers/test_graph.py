"""CUDA graphs on a device in plain Python: the order of calls, and trials that use them."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks.cases import random_images
from tests.unit.trainers.arms import ARMS, JOINT, ROAD, small, trace
from tests.unit.trainers.fake_cuda import FakeCuda
from trainers import evaluate, fedavg
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.graph import LOCK, WARM_UPS, Graphs, Replay, graphs_of
from trainers.numerics import make_deterministic


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


class Count:
    """A function that adds one to a tensor, and notes each time that Python runs it."""

    def __init__(self, device: FakeCuda, total: Tensor | None = None) -> None:
        self.device = device
        self.total = torch.zeros(()) if total is None else total

    def __call__(self) -> None:
        self.device.note(f"function on {self.device.current}")
        self.total.add_(1)


QUICK = ("bn", "fixbn", "gn", "fedbn")
"""The normalizers of each kind: with statistics, frozen, without, and with per-client state."""


def test_a_function_is_warmed_up_captured_and_replayed() -> None:
    """Three plain calls on the trial's stream, a capture, then replays. Captures and replays hold
    the lock.
    """
    device = FakeCuda()
    count = Count(device)
    replay = Replay(count, Graphs(device))
    for calls in range(1, 7):
        replay()
        assert count.total == calls
    assert device.current == "default"
    assert not LOCK.locked()
    assert device.events == [
        *["function on stream 1"] * WARM_UPS,
        "capture 1 on stream 1 in pool 1, locked",
        "function on stream 1, locked",
        *["replay 1, locked"] * 3,
    ]


def test_a_trial_has_one_stream_and_one_pool() -> None:
    """Two functions of a trial share them. Another trial has its own."""
    device = FakeCuda()
    first, second = Graphs(device), Graphs(device)
    functions = [Replay(Count(device), graphs) for graphs in (first, first, second)]
    for _ in range(WARM_UPS + 1):
        for function in functions:
            function()
    captures = [event for event in device.events if event.startswith("capture")]
    assert captures == [
        "capture 1 on stream 1 in pool 1, locked",
        "capture 2 on stream 1 in pool 1, locked",
        "capture 3 on stream 2 in pool 2, locked",
    ]


def test_the_graphs_of_a_trial_are_destroyed_together() -> None:
    """After the work of the stream is done, under the lock. Later calls are plain."""
    device = FakeCuda()
    graphs = Graphs(device)
    counts = [Count(device), Count(device)]
    functions = [Replay(count, graphs) for count in counts]
    for function in functions * (WARM_UPS + 1):
        function()
    device.events.clear()
    graphs.close()
    assert device.events == ["synchronize stream 1", "reset 1, locked", "reset 2, locked"]
    graphs.close()
    assert len(device.events) == 3
    functions[0]()
    assert device.events[3:] == ["function on stream 1"]
    assert counts[0].total == WARM_UPS + 2


def test_a_failed_capture_falls_back_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Every function of the trial is then called plainly, with the same effect."""
    device = FakeCuda()
    graphs = Graphs(device)
    total = torch.zeros(())

    def wait() -> None:
        total.add_(total.item() + 1)

    waiting, sound = Replay(wait, graphs), Replay(Count(device), graphs)
    with caplog.at_level(logging.WARNING, logger="trainers.graph"):
        for _ in range(WARM_UPS + 3):
            waiting()
            sound()
    message = (
        "no CUDA graph: operation not permitted when stream is capturing; "
        "each operation is launched separately"
    )
    assert [record.getMessage() for record in caplog.records] == [message]
    assert total == 2 ** (WARM_UPS + 3) - 1
    assert sum(event.startswith("capture") for event in device.events) == 1
    assert not any(event.startswith("replay") for event in device.events)
    assert not LOCK.locked()


def test_a_number_of_the_capture_is_repeated() -> None:
    """The device in plain Python keeps it as a GPU does, so that trials with such a number differ
    from plain calls.
    """
    numbers = itertools.count(1)
    total = torch.zeros(())

    def add() -> None:
        total.add_(next(numbers))

    replay = Replay(add, Graphs(FakeCuda()))
    for _ in range(6):
        replay()
    assert total == 1 + 2 + 3 + 3 * 4


def test_a_cpu_has_no_graphs() -> None:
    """Every call is a plain one there."""
    assert graphs_of(torch.device("cpu")) is None
    total = torch.zeros(())
    replay = Replay(Count(FakeCuda(), total), None)
    for _ in range(WARM_UPS + 2):
        replay()
    assert total == WARM_UPS + 2


def assert_replays_are_plain_calls(config: TrainConfig, made: Dataset, graphs: int) -> None:
    """Assert that graphs change no bit of a trial, and how many of them it captures. The trial is
    also resumed after its first and its second round.
    """
    plain = trace(config, made, graphs=Graphs(FakeCuda(), capture=False))
    device = FakeCuda()
    assert trace(config, made, graphs=Graphs(device)) == plain
    assert len(device.graphs) == graphs
    assert sum(event.startswith("replay") for event in device.events) > graphs
    assert all(graph.calls is None for graph in device.graphs), "a graph outlived its trial"
    run = fedavg.run(config, made, graphs=Graphs(FakeCuda()))
    states = [r.state() for r in itertools.islice(run, min(2, config.rounds - 1))]
    run.close()
    for after, state in enumerate(states, 1):
        assert trace(config, made, state, graphs=Graphs(FakeCuda())) == plain[after:]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(arm, marks=() if arm["normalizer"] in QUICK else pytest.mark.slow)
        for arm in ARMS
    ],
    ids=str,
)
def test_graphs_change_no_bit_of_a_trial(
    arm: dict[str, Any], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a freeze, which needs a second graph of the step, and with tests in batches of 100, the
    last of which is partial.
    """
    monkeypatch.setattr(evaluate, "LARGEST_BATCH", 100)
    phases = 2 if "freeze_round" in arm else 1
    config = small(**arm, validation=0.2, lr_schedule="cosine")
    assert_replays_are_plain_calls(config, digits, phases + 2)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fedprox", "prox_mu": 0.5},
        {"algorithm": "scaffold", "momentum": "local"},
        {"algorithm": "feddyn", "optimizer": "adam", "lr": 0.001},
        {"algorithm": "fedadam", "optimizer": "adamw", "lr": 0.001},
    ],
    ids=str,
)
def test_graphs_change_no_bit_of_an_algorithm(changes: dict[str, Any], digits: Dataset) -> None:
    """Control variates and Adam's count change between two replays, on the device."""
    frozen = {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer"}
    config = small(**changes, **frozen, lr_schedule="cosine")
    assert_replays_are_plain_calls(config, digits, 2)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("changes", [{"momentum": "local"}, {"optimizer": "adam"}], ids=str)
def test_graphs_change_no_bit_after_a_joint_step(changes: dict[str, Any], digits: Dataset) -> None:
    """The first step of a round is launched plainly. If it is the only one, nothing is captured."""
    config = small(normalizer="fedtan", local_steps=6, lr_schedule="cosine", **changes)
    assert_replays_are_plain_calls(config, digits, 1)
    short = config.model_copy(update={"local_steps": 1})
    device = FakeCuda()
    plain = trace(short, digits, graphs=Graphs(FakeCuda(), capture=False))
    assert trace(short, digits, graphs=Graphs(device)) == plain
    assert device.graphs == []


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float64", marks=pytest.mark.slow)])
def test_graphs_change_no_bit_in_other_types(dtype: str, digits: Dataset) -> None:
    """With local epochs, and a graph for each batch size of clients with few samples."""
    config = small(
        dtype=dtype, local_steps=None, local_epochs=4, partition="dirichlet-class", min_samples=2,
        batch_size=300, clients=5, participation=1.0, normalizer="ws",
        rounds=2,
    )  # fmt: skip
    trial = fedavg._Federation(config, digits, torch.device("cpu"))
    sizes = {min(len(samples), 300) for samples in trial.samples}
    assert len(sizes) > 2
    assert_replays_are_plain_calls(config, digits, len(sizes))


def test_graphs_change_no_bit_of_augmented_images() -> None:
    """ResNet20 under FIXBN with frozen layers, and diagnostics between the steps."""
    config = small(
        dataset="cifar10", model="resnet20", normalizer="fixbn", freeze_round=2, freeze="layer",
        partition="iid", clients=2, participation=1.0, batch_size=2, diagnostics=True,
        evaluate_every=3, rounds=3,
    )  # fmt: skip
    assert_replays_are_plain_calls(config, random_images(20), 2)


@pytest.mark.slow
def test_graphs_change_no_dropout(scenes: Dataset) -> None:
    """The masks of DeepLabv3+ are those of plain calls, because each step has a seed."""
    config = small(**ROAD, batch_size=2, participation=1.0, rounds=2, local_steps=2)
    assert_replays_are_plain_calls(config, scenes, 1)


@pytest.mark.slow
def test_the_device_s_form_of_a_step_is_that_of_a_cpu(digits: Dataset) -> None:
    """Except for the rounding of the learning rate, in float64, over three rounds."""
    for arm in [*ARMS, *JOINT]:
        config = small(**arm, dtype="float64", lr_schedule="cosine", rounds=3)
        cpu, device = (
            [r.state().tensors for r in fedavg.run(config, digits, graphs=graphs)]
            for graphs in (None, Graphs(FakeCuda(), capture=False))
        )
        for one, other in zip(cpu, device, strict=True):
            assert one.keys() == other.keys()
            assert all(close(one[name], other[name]) for name in one)


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-11)
