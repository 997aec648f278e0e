"""The engine against the slow, obvious twin of examples/fedavg_by_hand.py: bit for bit."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.builders import REPOSITORY
from tests.unit.trainers.arms import MOMENTA, NORMALIZERS, SERVER_STATISTICS, small
from trainers import fedavg
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.numerics import make_deterministic

SCRIPT = REPOSITORY / "examples" / "fedavg_by_hand.py"

ELSE: list[dict[str, Any]] = [
    {"server_momentum": 0.9, "momentum": "global"},
    {"server_momentum": 0.5, "normalizer": "fixbn", "freeze_round": 1, "freeze": "layer"},
    {"server_momentum": 0.5, "normalizer": "fedbn", "momentum": "global"},
    {"lr_schedule": "cosine", "momentum": "local"},
    {"lr_schedule": "step", "lr_step": 2, "lr_gamma": 0.5},
    {"local_steps": None, "local_epochs": 1, "partition": "dirichlet-class", "min_samples": 5},
    {"centralized": True, "momentum": "local"},
    {"partition": "shards", "validation": 0.2, "decay_norm": False},
    {"clip_norm": 0.0, "dtype": "float64"},
    {"normalizer": "hbn", "partition": "dirichlet-class", "clients": 15, "momentum": "global"},
    {"normalizer": "ws", "agc_clip": 0.01, "momentum": "local"},
    {"model": "resnet20", "rounds": 2, "normalizer": "wn"},
]
DEEP = {"model": "resnet18", "rounds": 2, "clients": 2}


@pytest.fixture(scope="module")
def by_hand() -> Any:
    spec = importlib.util.spec_from_file_location("fedavg_by_hand", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def assert_equal(by_hand: Any, digits: Dataset, changes: dict[str, Any]) -> None:
    config = small(**changes)
    twin = by_hand.fedavg_by_hand(config, digits)
    for measured, wanted in zip(fedavg.run(config, digits), twin, strict=True):
        weights = measured.weights()
        assert weights.keys() == wanted.keys()
        for name, value in weights.items():
            assert torch.equal(value, wanted[name]), (measured.round, name)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("arm", "momentum"),
    list(itertools.product([*NORMALIZERS, *SERVER_STATISTICS], MOMENTA)),
    ids=str,
)
def test_the_engine_equals_the_twin(
    arm: dict[str, Any], momentum: str, by_hand: Any, digits: Dataset
) -> None:
    """Every tensor of the server and of every client, after each of four rounds of 3 of 5."""
    assert_equal(by_hand, digits, {**arm, "momentum": momentum})


@pytest.mark.one_in(2)
@pytest.mark.parametrize("changes", [*ELSE, pytest.param(DEEP, marks=pytest.mark.slow)], ids=str)
def test_the_engine_equals_the_twin_in_all_else(
    changes: dict[str, Any], by_hand: Any, digits: Dataset
) -> None:
    """Server momentum, schedules, epochs, the centralized baseline, other models."""
    assert_equal(by_hand, digits, changes)


def test_the_engine_equals_the_twin_on_augmented_images(by_hand: Any, image_folder: Any) -> None:
    """Crops and flips too."""
    images = datasets.load("imagefolder", image_folder, image_size=32)
    changes = {"dataset": "imagefolder", "clients": 2, "participation": 1.0, "rounds": 2}
    assert_equal(by_hand, images, changes)


@pytest.mark.slow
def test_the_script_shows_the_twin_s_agreement() -> None:
    """Run as a user runs it: the largest difference is 0.0."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert "largest difference between the engine's weights and those by hand: 0.0\n" in done.stdout
