"""Data sets in the layouts in which they are published."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets as peers

from tests.array_files import (
    TEST,
    TRAIN,
    leaf_pixels,
    made_arrays,
    make_idx,
    make_leaf,
    make_parquet,
    make_saved_to_disk,
    make_svhn,
    save_idx,
)
from trainers.data import cache, datasets, downloads
from trainers.data.errors import BadData, Missing
from trainers.data.listing import list_data
from trainers.data.published import idx_files
from trainers.facts import (
    CHARACTERS,
    DOWNLOADED,
    DOWNLOADED_CLASSES,
    EMNIST,
    NEVER_AUGMENTED,
    TEST_SAMPLES,
)

IDX = ("mnist", "fashion-mnist", *EMNIST)


@pytest.mark.parametrize("dataset", IDX)
def test_files_in_mnist_format_are_read_as_torchvision_reads_them(
    dataset: str, tmp_path: Path
) -> None:
    """EMNIST's files hold each image transposed, and it is turned upright. Their letters begin
    with the label 1, and ours with 0.
    """
    make_idx(tmp_path, dataset)
    data = datasets.load(dataset, tmp_path)
    own = {"mnist": peers.MNIST, "fashion-mnist": peers.FashionMNIST}
    for split, train in ((data.train, True), (data.test, False)):
        if dataset in EMNIST:
            peer = peers.EMNIST(tmp_path, EMNIST[dataset], train=train)
        else:
            peer = own[dataset](tmp_path, train)
        images = peer.data.transpose(1, 2) if dataset in EMNIST else peer.data
        assert torch.equal(split.images[..., 0], images)
        first = 1 if dataset == "emnist-letters" else 0
        assert torch.equal(split.labels, peer.targets.long() - first)
    assert data.classes == CHARACTERS[dataset]
    assert data.channels == 1


def test_compressed_files_have_the_same_fingerprint(tmp_path: Path) -> None:
    """Torchvision keeps both. A folder of the files alone is enough."""
    prints = []
    for name, compressed in (("plain", False), ("packed", True)):
        place = make_idx(tmp_path / name, compressed=compressed)
        for root in (tmp_path / name, place, place.parent):
            listing = list_data({"dataset": "mnist"}, root)
            prints.append(listing.content().fingerprint)
        assert datasets.load("mnist", tmp_path / name).train.images.shape == (TRAIN, 8, 8, 1)
    assert len(set(prints)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first bytes are not those of 3 dimensions"),
        (bytes([0, 0, 8, 1]) + struct.pack(">III", 1, 1, 1), "its first bytes are not those"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 8, 8), "it holds no 128 bytes"),
        (bytes([0, 0, 8, 3]) + struct.pack(">III", 1, 1, 1) + b"xx", "it holds no 1 bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "it holds no 79,228"),
    ],
)
def test_damaged_files_in_mnist_format_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    """A header that promises more than the file has takes no memory."""
    place = make_idx(tmp_path)
    (place / idx_files("mnist")[0]).write_bytes(content)
    with pytest.raises(BadData, match=f"cannot be read as a file of MNIST's format .*{message}"):
        list_data({"dataset": "mnist"}, tmp_path).stock()


def test_a_damaged_compression_is_refused(tmp_path: Path) -> None:
    place = make_idx(tmp_path, compressed=True)
    file = place / f"{idx_files('mnist')[0]}.gz"
    file.write_bytes(gzip.compress(b"x" * 100)[:20])
    with pytest.raises(BadData, match="cannot be read"):
        datasets.load("mnist", tmp_path)


def test_svhn_is_read_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its label 10 is the digit 0."""
    make_svhn(tmp_path)
    monkeypatch.setattr(peers.SVHN, "_check_integrity", lambda _: True)
    data = datasets.load("svhn", tmp_path)
    for split, name in ((data.train, "train"), (data.test, "test")):
        peer = peers.SVHN(tmp_path, name)
        assert np.array_equal(split.images.numpy(), peer.data.transpose(0, 2, 3, 1))
        assert split.labels.tolist() == peer.labels.tolist()
    assert (data.channels, data.classes) == (3, 10)
    (tmp_path / "train_32x32.mat").write_bytes(b"no file of MATLAB")
    with pytest.raises(BadData, match="cannot be read as a file of SVHN"):
        datasets.load("svhn", tmp_path)


def test_femnist_has_a_client_for_each_writer(tmp_path: Path) -> None:
    """The pixels of LEAF are bytes divided by 255. Writers are sorted by name."""
    data = datasets.load("femnist", make_leaf(tmp_path))
    assert data.groups == ("f0000_14", "f0001_41", "f0002_01")
    assert data.members is not None
    assert np.bincount(data.members).tolist() == [4, 2, 3]
    assert np.array_equal(data.train.images[0, ..., 0], leaf_pixels(0, 0))
    assert np.array_equal(data.train.images[4, ..., 0], leaf_pixels(1, 0))
    assert data.test_members is not None
    assert data.test_members.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.classes == 62


def test_femnist_may_be_split_by_writer(tmp_path: Path) -> None:
    """Then no test image belongs to a client, and a note says so."""
    data = datasets.load("femnist", make_leaf(tmp_path, test_writers=("f0009_00", "f0010_00")))
    assert data.test_members is None
    assert data.found == ("no test image is of a training client: 2 other writers test",)


def test_a_writer_with_test_images_alone_is_refused(tmp_path: Path) -> None:
    """LEAF's two ways to split are not mixed."""
    make_leaf(tmp_path, test_writers=("f0000_14", "f0009_00"))
    with pytest.raises(BadData, match=r"clients without training images \(f0009_00\)"):
        datasets.load("femnist", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "cannot be read as a file of LEAF"),
        ('{"users": ["a"], "user_data": {}}', "its users are not those of its user_data"),
        ('{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": [0]}}}', "an image has 784 values"),
        ('{"users": ["a"], "user_data": {"a": {"x": [], "y": []}}}', "writers without images: a"),
        (
            json.dumps({"users": ["a"], "user_data": {"a": {"x": [[1.5] * 784], "y": [0]}}}),
            "pixels outside of 0 to 1 for the writer a",
        ),
        (
            json.dumps({"users": ["a"], "user_data": {"a": {"x": [[0] * 784], "y": ["b"]}}}),
            "the labels of a are no whole numbers",
        ),
        (
            json.dumps({"users": ["f0000_14"], "user_data": {"f0000_14": {"x": [], "y": []}}}),
            "holds the writer f0000_14 a second time",
        ),
    ],
)
def test_damaged_files_of_leaf_are_refused(content: str, message: str, tmp_path: Path) -> None:
    make_leaf(tmp_path)
    (tmp_path / "femnist" / "data" / "train" / "c.json").write_text(content)
    with pytest.raises(BadData, match=message):
        datasets.load("femnist", tmp_path)


@pytest.mark.parametrize("dataset", [*IDX, "svhn", "femnist"])
def test_a_folder_without_the_files_is_refused_with_the_remedy(
    dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(Missing, match="holds .*: .*point --data"):
        datasets.load(dataset, tmp_path)


def test_facts_of_published_data_sets_agree() -> None:
    """Their sizes are those that their authors publish. No character is ever mirrored."""
    sizes = {name: sum(classes) for name, classes in DOWNLOADED_CLASSES.items()}
    published = {"mnist": 60_000, "fashion-mnist": 60_000, "emnist": 112_800, "svhn": 73_257}
    published |= {"emnist-digits": 240_000, "emnist-letters": 124_800, "emnist-mnist": 60_000}
    assert sizes == {"tiny-imagenet": 100_000, **published}
    for name in published:
        assert len(DOWNLOADED_CLASSES[name]) == CHARACTERS[name]
        assert name in NEVER_AUGMENTED
        assert name in TEST_SAMPLES
    assert DOWNLOADED - sizes.keys() == {"emnist-byclass", "emnist-bymerge"}
    assert EMNIST.keys() < NEVER_AUGMENTED


def test_the_classes_of_emnist_are_torchvision_s() -> None:
    """Torchvision counts a class "N/A" before the letters."""
    names = peers.EMNIST.classes_split_dict
    assert set(EMNIST.values()) == set(peers.EMNIST.splits)
    for dataset, split in EMNIST.items():
        assert CHARACTERS[dataset] == len([name for name in names[split] if name != "N/A"])


def test_a_letter_without_a_class_is_refused(tmp_path: Path) -> None:
    """A label 0 in the files of the letters is none of them."""
    place = make_idx(tmp_path, "emnist-letters")
    save_idx(place / idx_files("emnist-letters")[1], np.zeros(TRAIN, np.uint8))
    with pytest.raises(BadData, match="labels in .* hold -1 to -1"):
        datasets.load("emnist-letters", tmp_path)


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "emnist-letters", "svhn"])
def test_a_missing_data_set_is_fetched_once_with_its_checksum(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, the files of torchvision's list are put into the user's cache. All splits
    of EMNIST come with the first.
    """
    if dataset == "svhn":
        source = make_svhn(tmp_path / "source")
    else:
        for each in EMNIST if dataset in EMNIST else (dataset,):
            source = make_idx(tmp_path / "source", each, compressed=True)
    asked: list[tuple[str, str]] = []

    def fetch(url: str, root: Path, filename: str, md5: str) -> None:
        asked.append((url, md5))
        if filename == "gzip.zip":
            from zipfile import ZipFile

            with ZipFile(Path(root) / filename, "w") as archive:
                for file in source.iterdir():
                    archive.write(file, f"gzip/{file.name}")
        else:
            (Path(root) / filename).write_bytes((source / filename).read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = datasets.load(dataset)
    assert len(data.test.labels) == TEST
    assert datasets.load(dataset).fingerprint == data.fingerprint
    for other in EMNIST if dataset in EMNIST else ():
        assert len(datasets.load(other).test.labels) == TEST
    assert len(asked) == {"svhn": 2, **dict.fromkeys(EMNIST, 1)}.get(dataset, 4)
    assert all(len(md5) == 32 and url.startswith("http") for url, md5 in asked)


def test_a_download_that_fails_says_how_to_get_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half is left behind."""

    def fail(*_: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(Missing, match=r"mnist is not in .* \(no network\): point --data"):
        datasets.load("mnist")
    assert not list((tmp_path / "cache" / "fedsweep").glob("mnist*"))
    assert "mnist" in downloads.FOLDERS


# Copies of the Hugging Face hub

NAME = "huggingface:lab/shapes"


@pytest.mark.parametrize("make", [make_parquet, make_saved_to_disk])
def test_a_local_copy_of_the_hub_is_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Images that are all gray have one channel."""
    make(tmp_path / "lab" / "shapes")
    data = datasets.load(NAME, tmp_path, image_size=8)
    assert np.array_equal(data.train.images, made_arrays()["images"][:12])
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.members is None
    assert len(data.test.labels) == 6
    stock = list_data({"dataset": NAME, "image_size": 8}, tmp_path).stock()
    assert (stock.samples, stock.classes, stock.test) == (12, (4, 4, 4), 6)


def test_a_column_of_clients_makes_natural_clients(tmp_path: Path) -> None:
    """Domains are an example. Larger images are scaled down."""
    make_parquet(tmp_path / "lab" / "shapes", domains=("sketch", "photo"))
    data = datasets.load(NAME, tmp_path, image_size=4)
    assert data.groups == ("photo", "sketch")
    assert data.test_members is not None
    assert np.bincount(data.test_members).tolist() == [3, 3]
    assert data.train.images.shape == (12, 4, 4, 1)


def test_tables_that_hold_no_images_and_labels_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "lab" / "shapes"
    with pytest.raises(Missing, match="there is no folder .*shapes: put the local copy there"):
        datasets.load(NAME, tmp_path, image_size=8)
    folder.mkdir(parents=True)
    with pytest.raises(Missing, match=r"has no train split: it needs train-\*\.parquet"):
        datasets.load(NAME, tmp_path, image_size=8)
    tables = {
        "none of label, labels, character": {"image": [b"x"], "kind": [0]},
        "none of image, img": {"pixels": [b"x", b"y"], "label": [0, 1]},
        "1 rows without label: remove them": {"image": [b"x", b"y"], "label": [0, None]},
        "row 0 of .* holds no image, but NoneType": {
            "image": [{"bytes": None, "path": "a.png"}] * 2,
            "label": [0, 1],
        },
        "cannot be read as an image": {"image": [b"x", b"y"], "label": [0, 1]},
    }
    for message, columns in tables.items():
        for split in ("train", "test"):
            pq.write_table(pa.table(columns), folder / f"{split}.parquet")
        with pytest.raises(BadData, match=message):
            datasets.load(NAME, tmp_path, image_size=8)
    (folder / "train.parquet").write_bytes(b"no table")
    with pytest.raises(BadData, match="cannot be read as a table of images and labels"):
        datasets.load(NAME, tmp_path, image_size=8)


def test_decoded_copies_are_cached_under_a_plain_name(tmp_path: Path) -> None:
    """A cache entry is a folder, and a data set's name has a colon and a slash."""
    make_parquet(tmp_path / "lab" / "shapes")
    datasets.load(NAME, tmp_path, image_size=8)
    entries = list(cache.cache_folder().glob("huggingface-*"))
    assert entries
    assert datasets.load(NAME, tmp_path, image_size=8).train.images.shape == (12, 8, 8, 1)
