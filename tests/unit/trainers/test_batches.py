"""Data sets and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.trainers.arms import config
from trainers.data import batches, datasets
from trainers.data.dataset import VOID
from trainers.keys import keyed


def test_digits_are_split_once_and_stratified() -> None:
    """1,437 and 360 images, every class in both alike, the same in every process."""
    digits = datasets.load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    shares = [torch.bincount(s.labels) / len(s.labels) for s in (digits.train, digits.test)]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    assert digits.fingerprint == "6a812af8365b27b7ec02d34500f78006"


def test_normalizing_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    """From uint8 [B, H, W, C] to [B, C, H, W], channels last."""
    digits = datasets.load("digits")
    batch = batches.Normalize(digits, torch.float64, torch.device("cpu"))(digits.train.images[:5])
    wanted = digits.train.images[:5].double().permute(0, 3, 1, 2) / 16
    assert torch.allclose(batch, wanted, atol=1e-15)
    assert batch.shape == (5, 1, 8, 8)


def test_a_local_epoch_visits_every_sample_once_and_drops_the_last_partial_batch() -> None:
    """23 samples in batches of 5: four batches, 20 different samples; then another order."""
    samples = np.arange(100, 123)
    steps = batches.local_batches(samples, config(local_steps=8, batch_size=5), round=1, client=0)
    assert steps.shape == (8, 5)
    for epoch in (steps[:4], steps[4:]):
        assert len(set(epoch.ravel().tolist())) == 20
        assert set(epoch.ravel().tolist()) <= set(samples.tolist())
    assert (steps[:4] != steps[4:]).any()


def test_a_client_with_fewer_samples_than_a_batch_uses_them_all() -> None:
    """The only batch is not dropped for being partial."""
    steps = batches.local_batches(np.arange(3), config(local_steps=2, batch_size=5), 1, 0)
    assert [sorted(step) for step in steps.tolist()] == [[0, 1, 2], [0, 1, 2]]


def test_a_shorter_round_takes_the_first_batches_of_a_longer_one() -> None:
    """Batches are keyed by round, client and epoch, not by E."""
    short = batches.local_batches(np.arange(40), config(local_steps=3, batch_size=5), 7, 2)
    long = batches.local_batches(np.arange(40), config(local_steps=9, batch_size=5), 7, 2)
    assert (long[:3] == short).all()


def test_local_epochs_visit_every_batch_of_a_client_so_many_times() -> None:
    """Two epochs of 23 samples in batches of 5 are eight steps; 3 samples are one batch each."""
    chosen = config(local_steps=None, local_epochs=2, batch_size=5)
    steps = batches.local_batches(np.arange(23), chosen, round=1, client=0)
    assert steps.shape == (8, 5)
    assert all(len(set(epoch.ravel().tolist())) == 20 for epoch in (steps[:4], steps[4:]))
    assert batches.local_batches(np.arange(3), chosen, round=1, client=0).shape == (2, 3)


@pytest.mark.parametrize(("height", "width", "pad"), [(16, 16, 2), (16, 40, 2), (24, 16, 2)])
def test_crop_and_flip_equal_a_plain_loop(height: int, width: int, pad: int) -> None:
    """Against numpy's padding, slicing and reversing, image by image, label by label."""
    images = torch.randint(0, 256, (6, height, width, 3), dtype=torch.uint8)
    labels = torch.randint(0, 19, (6, height, width), dtype=torch.uint8)
    drawn = batches.draw_crops(6, height, width, [keyed(0, "augment", 1, 2, 3)])
    rows, columns = (torch.from_numpy(part[0]) for part in drawn)
    got = batches.crop_and_flip(images, rows, columns)
    moved = batches.crop_and_flip(labels, rows, columns, fill=VOID)
    draw = keyed(0, "augment", 1, 2, 3)
    offset = draw.randint(0, 2 * pad + 1, (2, 6, 1))
    flip = draw.randint(0, 2, (6, 1))
    for i in range(6):
        top, left = int(offset[0, i, 0]), int(offset[1, i, 0])
        # Of a flipped image the crop's columns are read from right to left.
        order = -1 if flip[i, 0] else 1
        padded = np.pad(images[i].numpy(), ((pad, pad), (pad, pad), (0, 0)))
        wanted = padded[top : top + height, left : left + width][:, ::order]
        assert np.array_equal(got[i].numpy(), wanted)
        framed = np.pad(labels[i].numpy(), pad, constant_values=VOID)
        wanted = framed[top : top + height, left : left + width][:, ::order]
        assert np.array_equal(moved[i].numpy(), wanted)


def test_a_image_and_its_labels_move_together() -> None:
    """Each pixel keeps its label; where nothing of the image is seen, the label is void."""
    labels = torch.randint(0, 19, (8, 16, 32), dtype=torch.uint8)
    images = (labels + 1)[..., None].expand(-1, -1, -1, 3).contiguous()
    drawn = batches.draw_crops(8, 16, 32, [keyed(0, "augment", 5)])
    rows, columns = (torch.from_numpy(part[0]) for part in drawn)
    seen = batches.crop_and_flip(images, rows, columns)[..., 0]
    told = batches.crop_and_flip(labels, rows, columns, fill=VOID)
    inside = seen > 0
    assert torch.equal(told[inside], seen[inside] - 1)
    assert (told[~inside] == VOID).all()
    assert not inside.all()


def test_released_crops_of_square_images_never_change() -> None:
    """These rows and columns stand behind people's results: others need a raised recipe."""
    rows, columns = batches.draw_crops(3, 32, 32, [keyed(7, "augment", 1, 0, 0)])
    assert rows[0, :, 0].tolist() == [1, 2, 1]
    assert columns[0, :, 0].tolist() == [38, 36, 0]
