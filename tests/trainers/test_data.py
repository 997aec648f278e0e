"""Data sets and batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import make_picture_folder
from tests.trainers.test_config import config
from trainers import data
from trainers.folder import BadData, read_tree
from trainers.keys import keyed


def test_digits_are_split_once_and_stratified() -> None:
    """1,437 and 360 pictures, every class in both alike, the same in every process."""
    digits = data.load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    shares = [torch.bincount(s.labels) / len(s.labels) for s in (digits.train, digits.test)]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    assert digits.fingerprint == "6a812af8365b27b7ec02d34500f78006"


def test_an_image_folder_is_decoded_to_rgb_of_one_size(picture_folder: Path) -> None:
    """Grey pictures and larger ones too; classes and files in alphabetical order."""
    found = data.load("imagefolder", picture_folder, image_size=32)
    assert found.train.images.shape == (48, 32, 32, 3)
    assert found.train.labels.tolist() == [0] * 24 + [1] * 24
    assert found.classes == 2
    grey = found.train.images[3]
    assert torch.equal(grey[..., 0], grey[..., 1])
    from PIL import Image

    with Image.open(picture_folder / "train" / "class0" / "001.png") as picture:
        assert np.array_equal(found.train.images[1].numpy(), np.asarray(picture))


def test_the_fingerprint_is_of_the_content_not_the_place(tmp_path: Path) -> None:
    """A copy elsewhere is the same data; one changed byte is not."""
    first = read_tree(make_picture_folder(tmp_path / "a")).fingerprint()
    assert read_tree(make_picture_folder(tmp_path / "b")).fingerprint() == first
    victim = tmp_path / "b" / "test" / "class1" / "000.png"
    victim.write_bytes(victim.read_bytes() + b"\0")
    assert read_tree(tmp_path / "b").fingerprint() != first


def test_empty_and_hidden_folders_are_no_classes(picture_folder: Path) -> None:
    """They would move the labels without changing the fingerprint."""
    before = read_tree(picture_folder)
    (picture_folder / "train" / "a-new-class").mkdir()
    (picture_folder / "train" / ".thumbnails").mkdir()
    (picture_folder / "test" / "another").mkdir()
    assert read_tree(picture_folder) == before
    assert before.classes == ("class0", "class1")


def test_missing_and_damaged_folders_are_bad_data(picture_folder: Path, tmp_path: Path) -> None:
    """Each with a sentence that names the place."""
    with pytest.raises(BadData, match="no folder .*nowhere/train"):
        read_tree(tmp_path / "nowhere")
    with pytest.raises(BadData, match="needs a place"):
        read_tree(None)
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    with pytest.raises(BadData, match="holds no pictures"):
        read_tree(tmp_path / "empty")
    strange = picture_folder / "test" / "stranger"
    shutil.copytree(picture_folder / "test" / "class0", strange)
    with pytest.raises(BadData, match="stranger is a class without training pictures"):
        read_tree(picture_folder)
    shutil.rmtree(strange)
    (picture_folder / "train" / "class0" / "005.png").write_bytes(b"no picture")
    with pytest.raises(BadData, match="005.png cannot be read"):
        data.load("imagefolder", picture_folder, image_size=32)


def test_another_content_than_planned_is_bad_data(picture_folder: Path) -> None:
    """A plan that pinned its pictures is not trained on others."""
    with pytest.raises(BadData, match="are not those"):
        data.load("imagefolder", picture_folder, image_size=32, fingerprint="0" * 32)


def test_channel_statistics_are_those_of_numpy(picture_folder: Path) -> None:
    """Mean and standard deviation of each channel, over all training pictures."""
    found = data.load("imagefolder", picture_folder, image_size=32)
    pixels = found.train.images.numpy().reshape(-1, 3).astype(np.float64)
    assert np.allclose(found.mean, pixels.mean(0), rtol=1e-12)
    assert np.allclose(found.std, pixels.std(0), rtol=1e-12)


def test_normalising_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    """From uint8 [B, H, W, C] to [B, C, H, W], channels last."""
    digits = data.load("digits")
    batch = data.Normalize(digits, torch.float64, torch.device("cpu"))(digits.train.images[:5])
    wanted = digits.train.images[:5].double().permute(0, 3, 1, 2) / 16
    assert torch.allclose(batch, wanted, atol=1e-15)
    assert batch.shape == (5, 1, 8, 8)


def test_a_local_epoch_visits_every_sample_once_and_drops_the_last_partial_batch() -> None:
    """23 samples in batches of 5: four batches, 20 different samples; then another order."""
    samples = np.arange(100, 123)
    steps = data.local_batches(samples, config(local_steps=8, batch_size=5), round=1, client=0)
    assert steps.shape == (8, 5)
    for epoch in (steps[:4], steps[4:]):
        assert len(set(epoch.ravel().tolist())) == 20
        assert set(epoch.ravel().tolist()) <= set(samples.tolist())
    assert (steps[:4] != steps[4:]).any()


def test_a_client_with_fewer_samples_than_a_batch_uses_them_all() -> None:
    """The only batch is not dropped for being partial."""
    steps = data.local_batches(np.arange(3), config(local_steps=2, batch_size=5), 1, 0)
    assert [sorted(step) for step in steps.tolist()] == [[0, 1, 2], [0, 1, 2]]


def test_a_shorter_round_takes_the_first_batches_of_a_longer_one() -> None:
    """Batches are keyed by round, client and epoch, not by E."""
    short = data.local_batches(np.arange(40), config(local_steps=3, batch_size=5), 7, 2)
    long = data.local_batches(np.arange(40), config(local_steps=9, batch_size=5), 7, 2)
    assert (long[:3] == short).all()


def test_crop_and_flip_equal_a_plain_loop() -> None:
    """Against numpy's padding, slicing and reversing, picture by picture."""
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    rows, columns = data.draw_crops(6, 16, [keyed(0, "augment", 1, 2, 3)])
    got = data.crop_and_flip(images, torch.from_numpy(rows[0]), torch.from_numpy(columns[0]))
    draw = keyed(0, "augment", 1, 2, 3)
    offset = draw.randint(0, 5, (2, 6, 1))
    flip = draw.randint(0, 2, (6, 1))
    for i, picture in enumerate(images.numpy()):
        padded = np.pad(picture, ((2, 2), (2, 2), (0, 0)))
        top, left = int(offset[0, i, 0]), int(offset[1, i, 0])
        wanted = padded[top : top + 16, left : left + 16]
        if flip[i, 0]:
            # The crop's columns are read from right to left.
            wanted = padded[top : top + 16, left : left + 16][:, ::-1]
        assert np.array_equal(got[i].numpy(), wanted)


def test_a_missing_cifar10_is_bad_data_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it can neither be found nor downloaded."""
    import torchvision.datasets.utils as downloads

    def refused(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(downloads, "_urlretrieve", refused)
    with pytest.raises(BadData, match="cifar-10-batches-py"):
        data.load("cifar10", tmp_path)


def test_cifar10_is_found_in_its_official_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision reads the batches; here tiny ones, their sums taken as they are."""
    import pickle

    from torchvision.datasets import cifar

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)]
    pixels = np.arange(4 * 3072, dtype=np.uint32).astype(np.uint8).reshape(4, 3072)
    for name in [*names, "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    found = data.load("cifar10", tmp_path)
    assert found.train.images.shape == (20, 32, 32, 3)
    assert found.test.images.shape == (4, 32, 32, 3)
    assert found.classes == 10
    assert np.array_equal(
        found.test.images[1].numpy(), pixels[1].reshape(3, 32, 32).transpose(1, 2, 0)
    )
