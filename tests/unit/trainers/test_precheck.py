"""The refusals of a plan before any trial exists, compared with those of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.image_folders import make_camvid, make_image_folder
from tests.unit.trainers.arms import config
from trainers import partition, precheck
from trainers.data import datasets
from trainers.data.files import list_files
from trainers.data.stock import Stock
from trainers.facts import CLASS_SAMPLES
from trainers.precheck import (
    MOST_NUMBERS,
    NUMBERS_PER_CLASS,
    Precheck,
    released,
)

SMALL = Stock(120, (30, 50, 40))
LABELS = np.repeat(np.arange(3), SMALL.classes)
GROUPS = Stock(9, (), (2, 3, 4))
SCENES = {"dataset": "camvid", "model": "deeplabv3plus", "partition": "natural", "clients": None}


@pytest.fixture(autouse=True)
def few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after fewer draws than usual: these tests are about the outcome."""
    monkeypatch.setattr(partition, "REDRAWS", 20)


def small(**changes: Any) -> Any:
    return config(**{"dataset": "imagefolder", "clients": 6, **changes})


def test_the_known_class_sizes_are_those_of_the_data() -> None:
    """The samples of each class of the digits are counted once, in the configuration."""
    labels = datasets.load("digits").train.labels.numpy()
    assert tuple(np.bincount(labels).tolist()) == CLASS_SAMPLES["digits"]
    assert released("digits") == Stock(len(labels), CLASS_SAMPLES["digits"], test=360)


def test_a_folder_tells_the_samples_of_each_class_and_group(tmp_path: Path) -> None:
    """No image is decoded for that."""
    folder = make_image_folder(tmp_path / "folder", classes=3, each=5)
    assert list_files("imagefolder", folder).stock() == Stock(15, (5, 5, 5), test=3)
    scenes = list_files("camvid", make_camvid(tmp_path / "camvid")).stock()
    assert scenes.classes == ()
    assert sum(scenes.groups) == scenes.samples > 0


PARTITIONS: list[dict[str, Any]] = [
    {"partition": "iid"},
    {"partition": "iid", "clients": 120},
    {"partition": "dirichlet", "alpha": 0.1},
    {"partition": "dirichlet", "alpha": 1e-6, "clients": 7},
    {"partition": "shards", "shards_per_client": 2},
    {"partition": "shards", "shards_per_client": 7, "clients": 11},
    {"partition": "dirichlet-class", "alpha": 1.0, "min_samples": 2},
    {"partition": "dirichlet-class", "alpha": 0.5, "min_samples": 1, "clients": 20},
    {"partition": "dirichlet-class", "alpha": 0.01, "min_samples": 10},
    {"partition": "dirichlet-class", "alpha": 100.0, "min_samples": 20},
    {"centralized": True},
    {**SCENES, "partition": "natural"},
]


@pytest.mark.parametrize("validation", [0.0, 1e-6, 0.02, 0.99])
@pytest.mark.parametrize("changes", PARTITIONS, ids=str)
def test_a_plan_refuses_exactly_what_a_trial_cannot_split(
    changes: dict[str, Any], validation: float
) -> None:
    """It refuses a partition that cannot be made, and one that holds back nothing it was asked."""
    for seed in range(3):
        wanted = small(**changes, validation=validation, seed=seed)
        natural = wanted.partition == "natural"
        stock = GROUPS if natural else SMALL
        labels = np.zeros((9, 2, 2), dtype=np.uint8) if natural else LABELS
        members = np.repeat(np.arange(3), GROUPS.groups) if natural else None
        try:
            parts = partition.partition(labels, wanted, members)
            held = sum(len(partition.hold_back(x, wanted, m)[1]) for m, x in enumerate(parts))
            possible = held > 0 or not validation
        except ValueError:
            possible = False
        if possible:
            Precheck().check(wanted, stock, [seed])
            continue
        with pytest.raises(ValueError, match=r"raise (alpha|validation)|lower clients"):
            Precheck().check(wanted, stock, [seed])


def test_the_least_validation_that_is_named_is_accepted() -> None:
    """A user who follows the message has a plan that runs."""
    for clients in (1, 3, 7, 60):
        with pytest.raises(ValueError, match="holds back no sample") as refusal:
            Precheck().check(small(partition="iid", clients=clients, validation=1e-9), SMALL, [0])
        least = str(refusal.value).split("raise validation to ")[1].split()[0]
        Precheck().check(
            small(partition="iid", clients=clients, validation=float(least)), SMALL, [0]
        )


def test_each_seed_of_a_dirichlet_partition_by_class_is_drawn() -> None:
    """One seed may give each client its minimum, and another one not."""
    hard = small(partition="dirichlet-class", alpha=0.05, clients=5, min_samples=7)
    possible: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(12):
        try:
            partition.partition(LABELS, hard.model_copy(update={"seed": seed}))
            possible[True].append(seed)
        except ValueError:
            possible[False].append(seed)
    assert possible[True]
    assert possible[False]
    Precheck().check(hard, SMALL, possible[True])
    with pytest.raises(ValueError, match=f"seed = {possible[False][0]}: raise alpha"):
        Precheck().check(hard, SMALL, [*possible[True], *possible[False]])


def test_an_impossible_partition_of_many_clients_is_refused() -> None:
    """It is one of many of the plan, which has drawn almost all that it may."""
    many = Stock(100_000, (500,) * 200)
    wanted = small(partition="dirichlet-class", alpha=0.01, clients=4000)
    with pytest.raises(ValueError, match="none of 20 draws .*: raise alpha"):
        Precheck(numbers=MOST_NUMBERS - 1).check(wanted, many, [0])


def test_a_draw_ends_when_too_few_samples_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other classes are not drawn: all of their samples could not fill each client's minimum.

    All 120 samples are needed, so that the first class that gives a client more is the last.
    """
    drawn: list[int] = []
    draw = partition._class_shares

    def watched(*arguments: Any) -> Any:
        counts = draw(*arguments)
        drawn.append(counts.shape[1])
        return counts

    monkeypatch.setattr(partition, "_class_shares", watched)
    with pytest.raises(ValueError, match="none of 20 draws"):
        partition.class_shares([20] * 6, 5, 0.1, 24, 0)
    assert len(drawn) == 20
    assert max(drawn) < 6


def test_a_draw_that_ends_early_could_not_have_been_good() -> None:
    """A complete draw is refused as well, and a draw that is good stays what it is."""
    for seed in range(40):
        whole = partition._class_shares([20] * 6, 6, 1.0, seed, 0)
        early = partition._class_shares([20] * 6, 6, 1.0, seed, 0, 10)
        assert (whole[:, : early.shape[1]] == early).all()
        assert early.shape == whole.shape or whole.sum(1).min() < 10


def test_an_empty_class_gives_nobody_a_sample() -> None:
    """Every client may have its fraction of the samples before the last class."""
    counts, drawn = partition.class_shares([0, 30, 0], 1, 0.1, 1, 0)
    assert counts is not None
    assert counts.tolist() == [[0, 30, 0]]
    assert drawn == 3


def test_one_partition_takes_only_so_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan leaves it to the worker; one whose first draw is good is checked all the same."""
    monkeypatch.setattr(precheck, "MOST_FOR_ONE", 10 * 3 * (NUMBERS_PER_CLASS + 60))
    hopeless = small(
        partition="dirichlet-class", alpha=0.01, clients=60, min_samples=1, validation=1e-9
    )
    checks = Precheck()
    checks.check(hopeless, SMALL, [0])
    assert 0 < checks.numbers <= precheck.MOST_FOR_ONE
    with pytest.raises(ValueError, match="none of 20 draws"):
        partition.partition(LABELS, hopeless)
    easy = hopeless.model_copy(update={"alpha": 100.0, "clients": 6, "min_samples": 1})
    with pytest.raises(ValueError, match="holds back no sample"):
        Precheck().check(easy, SMALL, [0])


def test_a_plan_draws_each_partition_once_and_only_so_many() -> None:
    """Trials that differ in nothing that decides the partition cost no further draw."""
    checks = Precheck()
    by_class = {"partition": "dirichlet-class", "alpha": 1.0}
    checks.check(small(**by_class), SMALL, [0])
    taken = checks.numbers
    checks.check(small(**by_class, normalizer="gn", lr=0.5), SMALL, [0])
    assert checks.numbers == taken > 0
    full = Precheck(numbers=MOST_NUMBERS)
    full.check(small(partition="dirichlet-class", alpha=0.01), SMALL, [0])
    assert full.numbers == MOST_NUMBERS
