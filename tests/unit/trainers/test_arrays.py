"""The data set `arrays`: a file of images, labels and clients."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.array_files import TEST, TRAIN, made_arrays, save_npz
from trainers import memory
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.data.errors import BadData, MachineLimit, Missing
from trainers.data.listing import list_data


def load(root: Path, name: str = "a.npz") -> Dataset:
    return datasets.load("arrays", root, file=name)


def choice(name: str = "a.npz") -> dict[str, Any]:
    return {"dataset": "arrays", "file": name}


def test_arrays_become_a_data_set_with_clients(tmp_path: Path) -> None:
    """Each image keeps its label and its client."""
    made = made_arrays()
    save_npz(tmp_path / "a.npz")
    data = load(tmp_path)
    assert torch.equal(data.train.images, torch.from_numpy(made["images"]))
    assert data.test.labels.tolist() == made["test_labels"].tolist()
    assert (data.classes, data.channels, data.size) == (3, 1, 8)
    assert data.groups == ("0", "1", "3")
    assert data.members is not None
    assert [data.groups[m] for m in data.members] == [str(c) for c in made["clients"]]
    assert data.test_members is not None
    assert len(data.test_members) == TEST
    assert data.mean == (pytest.approx(made["images"].mean()),)
    assert data.std == (pytest.approx(made["images"].std()),)


def test_gray_images_need_no_axis_of_channels(tmp_path: Path) -> None:
    """[N, H, W] is [N, H, W, 1]. Images may also be RGB."""
    made = made_arrays()
    gray = {name: made[name][..., 0] for name in ("images", "test_images")}
    save_npz(tmp_path / "a.npz", **gray)
    assert torch.equal(load(tmp_path).train.images, torch.from_numpy(made["images"]))
    np.savez(tmp_path / "rgb.npz", **made_arrays(channels=3))  # type: ignore[arg-type]  # no option is among them
    assert load(tmp_path, "rgb.npz").channels == 3


def test_safetensors_hold_the_same_data_set(tmp_path: Path) -> None:
    """The decoded content is equal; the files' own fingerprints differ."""
    save_npz(tmp_path / "a.npz")
    save_file(made_arrays(), tmp_path / "a.safetensors")
    assert load(tmp_path).fingerprint == load(tmp_path, "a.safetensors").fingerprint
    contents = [list_data(choice(name), tmp_path).content() for name in ("a.npz", "a.safetensors")]
    assert contents[0].fingerprint != contents[1].fingerprint


def test_names_of_clients_are_sorted(tmp_path: Path) -> None:
    """Numbers are sorted by value, and texts by their letters."""
    turns = np.arange(TRAIN) % 3
    numbers = np.array([10, 2, 33])[turns]
    save_npz(tmp_path / "a.npz", clients=numbers, test_clients=None)
    assert load(tmp_path).groups == ("2", "10", "33")
    words = np.array(["lyon", "bern", "köln"])[turns]
    save_npz(tmp_path / "b.npz", clients=words, test_clients=np.array(["bern"] * TEST))
    data = load(tmp_path, "b.npz")
    assert data.groups == ("bern", "köln", "lyon")
    assert data.found == (
        "2 clients without test images, whose own accuracy is not measured: köln, lyon",
    )


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    """One changed label changes it. A planned fingerprint refuses another file."""
    save_npz(tmp_path / "a.npz")
    planned = list_data(choice(), tmp_path).content().fingerprint
    datasets.load("arrays", tmp_path, file="a.npz", fingerprint=planned)
    labels = made_arrays()["labels"]
    labels[0] = 1
    save_npz(tmp_path / "a.npz", labels=labels)
    assert list_data(choice(), tmp_path).content().fingerprint != planned
    with pytest.raises(Missing, match="are not those that the trial was planned for"):
        datasets.load("arrays", tmp_path, file="a.npz", fingerprint=planned)


def test_the_samples_are_counted(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz")
    stock = list_data(choice(), tmp_path).stock()
    assert (stock.samples, stock.test) == (TRAIN, TEST)
    assert stock.classes == (8, 8, 8)
    assert stock.groups == (12, 6, 6)
    assert stock.tested == (6, 3, 3)


N = TRAIN
BAD: list[tuple[dict[str, Any], str]] = [
    ({"labels": None}, "lacks labels: it needs the arrays images, labels, test_images"),
    ({"client": np.zeros(N)}, "holds client, which is not known: remove or rename it"),
    ({"images": np.zeros((N, 8, 8), np.float32)}, "images in .* are float32: save them as uint8"),
    ({"images": np.zeros((N, 8, 8, 2), np.uint8)}, r"have the shape \[24, 8, 8, 2\]: it must be"),
    ({"images": np.zeros((N, 8, 9), np.uint8)}, "have 8 x 9 pixels: make them square"),
    ({"images": np.zeros((N, 3, 3), np.uint8)}, "have 3 x 3 pixels: make them square, with 4"),
    ({"images": np.zeros((0, 8, 8), np.uint8)}, "images in .* are empty"),
    ({"images": np.zeros((N, 16, 16), np.uint8)}, "test_images in .* are 8 x 8 x 1, and images"),
    ({"labels": np.zeros(N)}, "labels in .* are float64: save them as whole numbers"),
    ({"labels": np.zeros(5, int)}, r"labels in .* have the shape \[5\], for 24 images"),
    ({"labels": np.arange(N) % 3 - 1}, "labels in .* hold -1 to 1: number the classes from 0"),
    ({"labels": np.arange(N) % 2 * 9}, "no training image in .* has the label 1, and one has 9"),
    ({"labels": np.zeros(N, int)}, "holds one class: classification needs two or more"),
    ({"test_labels": np.arange(TEST)}, "has the label 3, a class without training images"),
    ({"clients": np.zeros(N)}, "clients in .* are float64: save them as whole numbers or text"),
    ({"clients": np.zeros(N - 1, int)}, r"clients in .* have the shape \[23\]"),
    ({"clients": np.array(["a", ""] * 12)}, "clients in .* hold an empty name"),
    ({"clients": None}, "holds test_clients without clients: add clients, or neither"),
    ({"test_clients": np.full(TEST, 7)}, r"clients without training images \(7\): add some"),
    ({"clients": np.array([None] * N)}, "clients in .* holds Python objects, which are not unpick"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_arrays_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A plan and a worker say the same sentence. Objects are never unpickled."""
    save_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(BadData, match=message):
        list_data(choice(), tmp_path).stock()
    with pytest.raises(BadData, match=message):
        load(tmp_path)


def _broken_off(file: Path) -> None:
    file.write_bytes(save_npz(file).read_bytes()[:-200])


def _promising(file: Path) -> None:
    """Write a header of more values than follow."""
    save_npz(file, labels=None)
    content = io.BytesIO()
    np.save(content, np.zeros(10**4, int))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.npy", content.getvalue()[:1000])


def _twice(file: Path) -> None:
    save_npz(file)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.npy", b"")


def _no_numpy(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", b"hello")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda file: file.write_bytes(b"no zip"),
            r"cannot be read as an \.npz file \(File is not",
        ),
        (_broken_off, r"cannot be read as an \.npz file"),
        (_promising, "the array labels in .* breaks off"),
        (_twice, "holds the array labels twice"),
        (_no_numpy, r"cannot be read as an \.npz file"),
    ],
)
def test_damaged_files_are_refused(write: Any, message: str, tmp_path: Path) -> None:
    """The sentence names the file."""
    write(tmp_path / "a.npz")
    with pytest.raises(BadData, match=message) as refused:
        load(tmp_path)
    assert "a.npz" in str(refused.value)


def test_other_places_and_files_are_refused(tmp_path: Path) -> None:
    """A missing file may be on another machine."""
    with pytest.raises(Missing, match=r"there is no file .*a\.npz: put it there"):
        load(tmp_path)
    with pytest.raises(Missing, match="arrays needs its data: point --data"):
        datasets.load("arrays", None, file="a.npz")
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BadData, match=r"cannot be read as a \.safetensors file"):
        load(tmp_path, "a.safetensors")


def test_arrays_larger_than_the_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_npz(tmp_path / "a.npz")
    save_file(made_arrays(), tmp_path / "a.safetensors")
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    for name in ("a.npz", "a.safetensors"):
        with pytest.raises(
            MachineLimit, match=r"the arrays in .* take .* this machine has 1\.0 kB"
        ):
            load(tmp_path, name)
