"""Everything long that a trainer does takes steps that another process can see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_each_of_two_threads_counts_in_a_counter_of_its_own(counter: Steps) -> None:
    """A thread without one counts in that of the process, as before and after the context."""
    counters = [Steps(), Steps()]
    both = threading.Barrier(3, timeout=60)

    def work(own: Steps, steps: int) -> None:
        progress.step()
        both.wait()
        with progress.counting_in(own):
            both.wait()
            for _ in range(steps):
                progress.step()
            both.wait()
        both.wait()
        progress.step()

    with ThreadPoolExecutor() as threads:
        ended = list(map(threads.submit, [work] * 2, counters, [3, 5]))
        both.wait()
        assert counter.steps == 2
        both.wait()
        progress.step()
        both.wait()
        assert (counter.steps, counters[0].steps, counters[1].steps) == (3, 3, 5)
        both.wait()
        for thread in ended:
            thread.result()
    assert (counter.steps, counters[0].steps, counters[1].steps) == (5, 3, 5)


def test_counters_of_one_thread_can_be_nested(counter: Steps) -> None:
    """The outer one counts again after an error, too."""
    outer, inner = Steps(), Steps()

    def fail() -> None:
        with progress.counting_in(inner):
            progress.step()
            raise KeyError

    with progress.counting_in(outer):
        with pytest.raises(KeyError):
            fail()
        assert progress.current is outer
    assert progress.current is counter
    assert (outer.steps, inner.steps) == (0, 1)


def test_threads_that_decode_count_for_the_thread_that_loads(
    counter: Steps, tmp_path: Path
) -> None:
    """The counter of the process stays the same."""
    root, own = make_image_folder(tmp_path / "images"), Steps()
    source = sources.find("imagefolder", root, image_size=None, image_height=None)
    with progress.counting_in(own):
        source.decode()
    assert own.steps > 0.9 * len(source.paths)  # threads may count two as one
    assert counter.steps == 0


def test_a_wait_counts_for_the_thread_that_waits(counter: Steps, ticking: None) -> None:
    """Another thread adds the ticks."""
    own = Steps()
    with progress.counting_in(own), progress.waiting():
        while own.steps < 3:
            pass
    assert counter.steps == 0


def test_a_download_counts(counter: Steps, ticking: None) -> None:
    """Bytes may come slowly, and use hardly any processor time."""

    def more() -> Iterator[None]:
        while counter.steps < 3:
            yield

    with downloads.limit_silence():
        list(more())
    assert counter.steps >= 3
