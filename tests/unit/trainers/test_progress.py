"""Everything long that a trainer does takes steps that another process can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.image_folders import make_image_folder
from tests.unit.trainers.arms import small
from trainers import fedavg, partition
from trainers import progress as progress_file
from trainers.data import cache, datasets, downloads, sources
from trainers.data.dataset import Dataset
from trainers.data.files import list_files
from trainers.numerics import make_deterministic
from trainers.progress import progress


class Steps:
    """A counter of the test."""

    steps = 0


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Steps:
    counter = Steps()
    monkeypatch.setattr(progress, "counter", counter)
    return counter


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def steps_of(counter: Steps, work: Callable[[], object]) -> int:
    before = counter.steps
    work()
    return counter.steps - before


def rounds(counter: Steps, digits: Dataset, **changes: object) -> list[int]:
    """Return the steps of each round but the first, which draws the partition too."""
    config = small(rounds=3, participation=1.0, **changes)
    steps = []
    before = counter.steps
    for _ in fedavg.run(config, digits):
        steps.append(counter.steps - before)
        before = counter.steps
    return steps[1:]


def test_a_round_counts_local_steps_and_evaluated_batches(counter: Steps, digits: Dataset) -> None:
    """Five clients take three steps each and are counted once; the test set is one batch."""
    assert rounds(counter, digits, evaluate_every=2) == [5 * 3 + 5 + 1] * 2
    assert rounds(counter, digits, evaluate_every=3) == [5 * 3 + 5, 5 * 3 + 5 + 1]


@pytest.mark.parametrize("normalizer", ["fedbn", "silobn"])
def test_an_evaluation_per_client_counts_each_client(
    normalizer: str, counter: Steps, digits: Dataset
) -> None:
    """Clients with layers of their own test the whole test set each, and the validation set."""
    without, with_one = rounds(counter, digits, normalizer=normalizer, evaluate_every=3)
    assert with_one - without == 5
    held = rounds(counter, digits, normalizer=normalizer, evaluate_every=3, validation=0.2)
    assert held[1] - held[0] == 5 * 2


def test_diagnostics_and_centralized_training_count(counter: Steps, digits: Dataset) -> None:
    """The gradients of a cohort's clients are taken one by one before the round."""
    plain = rounds(counter, digits)
    assert rounds(counter, digits, diagnostics=True) == [n + 5 for n in plain]
    assert min(rounds(counter, digits, centralized=True)) >= 3


def test_drawing_a_partition_counts(counter: Steps) -> None:
    """A partition by client counts clients; one by class counts what is drawn again."""
    labels = np.arange(1000) % 10
    assert steps_of(counter, lambda: partition.dirichlet(labels, 50, 0.1, 0)) == 50
    with pytest.raises(ValueError, match="none of"):
        partition.dirichlet_class(labels, 50, 0.01, 20, 0)
    assert counter.steps == 50 + partition.REDRAWS


def test_decoding_counts_each_file(
    counter: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step per file each time that its size is read, and when it is hashed and decoded."""
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "kept"))
    root = make_image_folder(tmp_path / "images")
    count = len(list_files("imagefolder", root).paths)
    source = sources.find("imagefolder", root, image_size=None, image_height=None)
    assert steps_of(counter, source.key) == count
    assert steps_of(counter, source.content) == 2 * count
    assert steps_of(counter, source.decode) > 0.9 * count  # threads may count two as one
    assert steps_of(counter, lambda: cache.fetch(source)) > 2.9 * count


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_file, "TICK_SECONDS", 0.001)


def test_a_wait_for_another_process_that_decodes_counts(
    counter: Steps, ticking: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait has a bound, after which the process decodes a copy of its own, with a warning."""
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.2)
    root = make_image_folder(tmp_path / "images", each=4)
    source = sources.find("imagefolder", root, image_size=None, image_height=None)
    folder = cache.cache_folder() / f"imagefolder-{cache.VERSION}-{source.key()}"
    folder.parent.mkdir(parents=True)
    before = counter.steps
    with FileLock(folder.parent / f".{folder.name}.lock", is_singleton=False):
        assert len(cache.fetch(source).train.labels) == 8
    assert counter.steps > before + 3 * len(source.paths)
    assert not folder.exists()


def test_a_download_counts(counter: Steps, ticking: None) -> None:
    """Bytes may come slowly, and use hardly any processor time."""

    def more() -> Iterator[None]:
        while counter.steps < 3:
            yield

    with downloads.limit_silence():
        list(more())
    assert counter.steps >= 3
