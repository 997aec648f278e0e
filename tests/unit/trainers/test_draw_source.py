"""The source of draws: trials of equal samplings share rounds, in bounded memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainers.arms import small, trace
from trainers import draw_source, fedavg
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.draw_source import ENTRY_BYTES, Cache, DrawSource
from trainers.draws import Drawn, Sampling, draw
from trainers.numerics import make_deterministic


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache."""
    cache = Cache(draw_source.CACHE_BYTES)
    monkeypatch.setattr(draw_source, "cache", cache)
    return cache


@pytest.fixture
def drawn_rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that are drawn in this process."""
    rounds: list[int] = []

    def counted(sampling: Sampling, round: int) -> Drawn:
        rounds.append(round)
        return draw(sampling, round)

    monkeypatch.setattr(draw_source, "draw", counted)
    return rounds


def test_arms_of_a_partition_share_their_draws(digits: Dataset, drawn_rounds: list[int]) -> None:
    """Each round is drawn once for all of them; their results stay their own."""
    first = trace(small(), digits)
    assert drawn_rounds == [1, 2, 3, 4]
    for arm in ({"normalizer": "gn"}, {"momentum": "global"}, {"lr": 0.01}, {"diagnostics": True}):
        trace(small(**arm), digits)
    assert drawn_rounds == [1, 2, 3, 4]
    assert trace(small(), digits) == first


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"alpha": 0.9}, {"batch_size": 7}, {"local_steps": 4}, {"participation": 1.0}],
    ids=str,
)
def test_other_trials_share_no_draws(
    change: dict[str, Any], digits: Dataset, drawn_rounds: list[int]
) -> None:
    trace(small(), digits)
    trace(small(**change), digits)
    assert drawn_rounds == [1, 2, 3, 4] * 2


def test_the_diagnostics_take_the_first_batches_of_the_same_draws(
    digits: Dataset, drawn_rounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round is drawn once, even if the cache keeps nothing."""
    monkeypatch.setattr(draw_source, "cache", Cache(0))
    trace(small(diagnostics=True), digits)
    assert drawn_rounds == [1, 2, 3, 4]


def test_a_round_in_use_is_not_drawn_again_for_another_order(drawn_rounds: list[int]) -> None:
    """Clients may ask in any order, and more than once."""
    parts = tuple(np.arange(start, start + 20) for start in range(0, 80, 20))
    source = DrawSource(Sampling(0, 4, 5, 4, (2,) * 4, parts), 9)
    wanted = draw(source.sampling, 3)
    for client in (3, 1, 0, 2, 3):
        indices, offsets = source.client(3, client)
        assert np.array_equal(indices, wanted.client(client)[0])
        assert np.array_equal(offsets, wanted.client(client)[1])
    assert drawn_rounds == [3]


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    """The limit counts content and overhead. A round that is too large is not kept."""
    cache = Cache(3 * (100 + ENTRY_BYTES))
    for round in (1, 2, 3):
        cache.put(b"a", round, bytearray(100))
    assert cache.get(b"a", 1) == bytearray(100)
    cache.put(b"a", 4, bytearray(100))
    assert cache.bytes == cache.limit
    assert [cache.get(b"a", round) is not None for round in (1, 2, 3, 4)] == [1, 0, 1, 1]
    assert cache.get(b"b", 1) is None
    cache.put(b"a", 5, bytearray(cache.limit))
    assert cache.get(b"a", 5) is None
    assert cache.bytes == cache.limit
    cache.put(b"a", 1, bytearray(100))
    assert cache.bytes == cache.limit


def test_threads_share_one_cache_and_get_the_same_draws(own_cache: Cache) -> None:
    """Two trials train in two threads, with room for few rounds."""
    parts = tuple(np.arange(start, start + 20) for start in range(0, 80, 20))
    sampling = Sampling(0, 4, 5, 4, (2,) * 4, parts)
    rounds = range(1, 200)
    wanted = [draw(sampling, round).content for round in rounds]
    own_cache.limit = 5 * (len(wanted[0]) + ENTRY_BYTES)
    contents: dict[int, list[bytearray]] = {0: [], 1: []}
    barrier = threading.Barrier(2)

    def train(number: int) -> None:
        source = DrawSource(sampling, 200)
        barrier.wait()
        for round in rounds:
            contents[number].append(bytearray(source.round(round).content))

    threads = [threading.Thread(target=train, args=(number,)) for number in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == {0: wanted, 1: wanted}
    assert 0 < own_cache.bytes <= own_cache.limit


def test_short_trials_start_no_helper(digits: Dataset) -> None:
    trial = fedavg._Federation(small(), digits, torch.device("cpu"))
    for round in (1, 2, 3):
        trial.train(round, sorted)
    assert trial.draws._helper is None
    assert 0 < trial.draws.spent < draw_source.START_SECONDS
