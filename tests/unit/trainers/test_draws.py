"""Draws of a round: the numbers and the images that the formulas of the first release give."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.unit.trainers.arms import config, small
from trainers import draws, fedavg
from trainers.algorithms import Algorithm
from trainers.data import datasets
from trainers.data.batches import sampling
from trainers.data.dataset import VOID, Dataset
from trainers.draw_source import DrawSource
from trainers.draws import Drawn, Sampling, draw
from trainers.keys import keyed
from trainers.local import LocalTraining
from trainers.momentum import Momentum
from trainers.vector import Vector

SIZES = (40, 3, 23, 8, 61)
"""Training samples of each client. One has fewer than a batch, another exactly one batch."""


def clients() -> list[NDArray[np.int64]]:
    """Return the samples of clients with `SIZES`."""
    ends = np.cumsum(SIZES)
    order = keyed(0, "test").permutation(int(ends[-1])).astype(np.int64)
    return [np.sort(part) for part in np.split(order, ends[:-1])]


def sampled(
    *, epochs: int | None = None, padding: int | None = 4, seed: int = 3, cohort: int = 3
) -> Sampling:
    """Return a sampling of `clients`: seven steps, or some epochs, of batches of 8."""
    parts = clients()
    steps = [7 if epochs is None else epochs * max(len(part) // 8, 1) for part in parts]
    return Sampling(seed, cohort, 8, padding, tuple(steps), tuple(parts))


def first_indices(
    samples: NDArray[np.int64], batch_size: int, steps: int, key: tuple[int, int, int]
) -> NDArray[np.int64]:
    """Return indices [E, B] by the formula of the first release."""
    seed, round, client = key
    rows: list[NDArray[np.int64]] = []
    epoch = 0
    while len(rows) < steps:
        order = samples[keyed(seed, "batches", round, client, epoch).permutation(len(samples))]
        size = min(batch_size, len(order))
        rows += list(order[: len(order) // size * size].reshape(-1, size))
        epoch += 1
    return np.stack(rows[:steps])


def first_crops(
    count: int, height: int, width: int, key: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows [B, H] and columns [B, W] of a step by the formula of the first release."""
    pad, down, across = min(height, width) // 8, np.arange(height), np.arange(width)
    draw = keyed(key[0], "augment", *key[1:])
    offset = draw.randint(0, 2 * pad + 1, (2, count, 1))
    flip = draw.randint(0, 2, (count, 1))
    return offset[0] + down, offset[1] + np.where(flip == 1, width - 1 - across, across)


def test_the_cohort_equals_the_first_release_s() -> None:
    """The first of a permutation of all clients, ascending."""
    for round in (1, 2, 9):
        order = keyed(5, "cohort", round).permutation(20)[:6]
        assert draws.cohort(5, 20, 6, round) == sorted(order.tolist())
    assert draws.cohort(5, 20, 20, 1) == list(range(20))


@pytest.mark.parametrize("epochs", [None, 1, 3])
@pytest.mark.parametrize("padding", [None, 4])
def test_the_indices_equal_the_first_release_s(epochs: int | None, padding: int | None) -> None:
    """For steps and for epochs, and for clients with fewer samples than a batch."""
    chosen = sampled(epochs=epochs, padding=padding, cohort=5)
    for round in (1, 12):
        drawn = draw(chosen, round)
        for client, samples in enumerate(chosen.samples):
            indices, offsets = drawn.client(client)
            steps = chosen.steps[client]
            wanted = first_indices(samples, 8, steps, (3, round, client))
            assert np.array_equal(indices, wanted)
            assert (offsets is None) == (padding is None)


@pytest.mark.parametrize(
    ("pad", "kind"), [(4, "int8"), (63, "int8"), (64, "uint8"), (128, "int16")]
)
def test_the_offsets_have_the_smallest_type_that_holds_them(pad: int, kind: str) -> None:
    """The drawn numbers are those of int64."""
    chosen = sampled(padding=pad, cohort=5)
    drawn = draw(chosen, 1)
    for client in range(5):
        offsets = drawn.client(client)[1]
        assert offsets is not None
        assert offsets.dtype == kind
        for step, row in enumerate(offsets):
            key = keyed(3, "augment", 1, client, step)
            size = row.shape[1]
            assert np.array_equal(row[:2], key.randint(0, 2 * pad + 1, (2, size, 1))[..., 0])
            assert np.array_equal(row[2], key.randint(0, 2, (size, 1))[:, 0])


def local_training(chosen: Any, data: Dataset, parts: list[NDArray[np.int64]]) -> LocalTraining:
    """Return a local training whose model does not matter."""
    model = nn.Linear(1, 1)
    source = DrawSource(sampling(chosen, data, parts), chosen.rounds)
    vector = Vector(model, torch.device("cpu"))
    momentum = Momentum(chosen, vector.end, vector.end, vector.values)
    algorithm = Algorithm(chosen, vector.values[: vector.parameters_end])
    return LocalTraining(chosen, data, vector, model, momentum, source, algorithm)


@pytest.mark.parametrize("changes", [{}, {"local_steps": None, "local_epochs": 2}], ids=str)
def test_images_and_label_images_equal_the_first_release_s(
    scenes: Dataset, changes: dict[str, Any]
) -> None:
    """Scenes are not square, two clients have fewer samples than a batch, and labels move along."""
    chosen = small(dataset="imagefolder", clients=3, participation=1.0, batch_size=4, **changes)
    assert scenes.members is not None
    parts = [np.flatnonzero(scenes.members == m) for m in range(3)]
    local = local_training(chosen, scenes, parts)
    images, labels = scenes.train.images.numpy(), scenes.train.labels.numpy()
    pad = 4
    framed = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    void = np.pad(labels, ((0, 0), (pad, pad), (pad, pad)), constant_values=VOID)
    for client, samples in enumerate(parts):
        steps = chosen.steps(len(samples))
        batches = first_indices(samples, 4, steps, (chosen.seed, 2, client))
        got = list(local.batches(2, client))
        assert len(got) == steps
        for step, (batch, (seen, told)) in enumerate(zip(batches, got, strict=True)):
            rows, columns = first_crops(len(batch), 32, 48, (chosen.seed, 2, client, step))
            at = batch[:, None, None], rows[:, :, None], columns[:, None, :]
            assert np.array_equal(seen.numpy(), framed[at])
            assert np.array_equal(told.numpy(), void[at])
        (first,) = local.batches(2, client, limit=1)
        assert torch.equal(first[0], got[0][0])


def test_images_that_are_not_augmented_are_the_samples_themselves() -> None:
    """Digits are never augmented."""
    digits = datasets.load("digits")
    chosen = small()
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    for client in fedavg.cohort(chosen, 5, 1):
        samples = trial.samples[client]
        wanted = first_indices(samples, 8, 3, (chosen.seed, 1, client))
        for batch, (images, labels) in zip(wanted, trial.local.batches(1, client), strict=True):
            assert torch.equal(images, digits.train.images[batch])
            assert torch.equal(labels, digits.train.labels[batch])


def test_a_client_outside_the_cohort_is_drawn_by_the_same_formulas() -> None:
    """Its draws do not depend on the cohort. They are no part of the round."""
    chosen = sampled()
    source = DrawSource(chosen, 9)
    drawn = source.round(1)
    (outside, *_) = set(range(5)) - set(drawn.places)
    with pytest.raises(KeyError):
        drawn.client(outside)
    everyone = draw(sampled(cohort=5), 1)
    for got, wanted in zip(source.client(1, outside), everyone.client(outside), strict=True):
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("padding", [None, 4])
def test_equal_clients_are_stacked_without_a_copy(padding: int | None) -> None:
    """The stack is a view of the round."""
    parts = tuple(np.arange(start, start + 30) for start in range(0, 120, 30))
    drawn = draw(Sampling(0, 4, 8, padding, (5,) * 4, parts), 1)
    indices, offsets = drawn.stacked()
    assert indices.shape == (4, 5, 8)
    assert np.shares_memory(indices, np.frombuffer(drawn.content, np.uint8))
    for client in range(4):
        own, moves = drawn.client(client)
        assert np.array_equal(indices[client], own)
        if offsets is not None and moves is not None:
            assert offsets.shape == (4, 5, 3, 8)
            assert np.array_equal(offsets[client], moves)
    assert (offsets is None) == (padding is None)


def test_further_steps_of_a_client_are_zeros_in_a_stack() -> None:
    """Clients with unequal epochs take unequal numbers of steps."""
    parts = (np.arange(10, 40), np.arange(40, 50))
    drawn = draw(Sampling(0, 2, 8, 4, (3, 1), parts), 1)
    indices, offsets = drawn.stacked()
    assert offsets is not None
    assert np.array_equal(indices[1, 0], drawn.client(1)[0][0])
    assert not indices[1, 1:].any()
    assert not offsets[1, 1:].any()
    assert np.array_equal(offsets[0], drawn.client(0)[1])


def test_clients_with_batches_of_unequal_sizes_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="batches of sizes"):
        draw(sampled(cohort=5), 1).stacked()


def test_content_of_another_length_is_refused() -> None:
    chosen = sampled()
    content = draw(chosen, 1).content
    assert Drawn(chosen, 1, bytearray(content)).content == content
    with pytest.raises(ValueError, match="bytes, not"):
        Drawn(chosen, 1, content + b"\0")


def test_equal_draws_have_equal_keys() -> None:
    """Nothing of an arm is in the key, and everything that changes a draw is."""
    digits = datasets.load("digits")
    parts = clients()

    def key(parts: list[NDArray[np.int64]] = parts, **changes: Any) -> bytes:
        return sampling(config(clients=5, **changes), digits, parts).key

    arms = [
        {"normalizer": "gn"}, {"momentum": "global"}, {"lr": 0.5}, {"model": "resnet20"},
        {"rounds": 99}, {"normalizer": "fixbn", "freeze_round": 3}, {"dtype": "float64"},
        {"diagnostics": True, "evaluate_every": 3},
    ]  # fmt: skip
    assert {key(**arm) for arm in arms} == {key()}
    moved = [parts[0][:-1], np.sort([*parts[1], parts[0][-1]]), *parts[2:]]
    others = [
        key(seed=1), key(moved), key(batch_size=7), key(local_steps=4), key(participation=0.5),
        key(local_steps=None, local_epochs=1), key([np.concatenate(parts)], centralized=True),
    ]  # fmt: skip
    assert len({key(), *others}) == len(others) + 1
    paddings = {sampled(padding=padding).key for padding in (None, 0, 4, 5)}
    assert len(paddings) == 4


def test_the_helper_imports_neither_torch_nor_pydantic() -> None:
    """It starts in a fraction of a second."""
    code = (
        "import sys, trainers.prefetch; print({'torch', 'pydantic', 'fedsweep'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
