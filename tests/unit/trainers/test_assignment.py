"""Clients that a file or a folder names: partitions of a file, and image folders by client."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.array_files import save_npz
from tests.image_folders import make_image_folder
from tests.unit.trainers.arms import config
from trainers import seq
from trainers.data import datasets
from trainers.data.assignment import read_partition
from trainers.data.errors import BadData, Missing
from trainers.data.files import list_files
from trainers.partition import dirichlet, partition


def write_csv(file: Path, clients: list[str], column: str = "sample") -> Path:
    """Write the client of each sample."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow([column, "client"])
        rows.writerows(enumerate(clients))
    return file


@given(clients=st.lists(st.sampled_from(["0", "7", "10", "bern", "köln, süd"]), min_size=1))
def test_a_partition_survives_its_file(
    clients: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each sample keeps its client, in a CSV and in a JSON object of any order."""
    folder = tmp_path_factory.mktemp("files")
    write_csv(folder / "p.csv", clients)
    entries = {str(i): client for i, client in reversed(list(enumerate(clients)))}
    (folder / "p.json").write_text(json.dumps(entries))
    for name in ("p.csv", "p.json"):
        read = read_partition(folder / name, len(clients))
        assert [read.clients[m] for m in read.members] == clients
        assert read.sizes == tuple(clients.count(name) for name in read.clients)


def test_a_dirichlet_partition_survives_its_file(tmp_path: Path) -> None:
    """A trial with the file has the same clients as the one whose partition was written."""
    labels = datasets.load("digits").train.labels.numpy()
    drawn = dirichlet(labels, 10, 0.3, seed=1)
    clients = np.empty(len(labels), dtype=object)
    for client, samples in enumerate(drawn):
        clients[samples] = str(client)
    write_csv(tmp_path / "p.csv", list(clients))
    chosen = config(partition="file", partition_file="p.csv", alpha=None, clients=None)
    data = seq.load(chosen, tmp_path)
    parts = partition(labels, chosen, data.members)
    assert [part.tolist() for part in parts] == [part.tolist() for part in drawn]


def test_samples_of_an_image_folder_may_be_named(image_folder: Path) -> None:
    """A sample is the place of its file, or its number."""
    names = list_files("imagefolder", image_folder).names()
    entries = {name: "even" if i % 2 == 0 else "odd" for i, name in enumerate(names)}
    (image_folder / "p.json").write_text(json.dumps(entries))
    read = read_partition(image_folder / "p.json", len(names), names)
    assert read.members == [i % 2 for i in range(len(names))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "sample,client\n0,a\n1,b\n", "lacks 1 training sample .the first is 2.: give"),
        ("p.csv", "sample,client\n0,a\n1,b\n2,a\n3,a\n", "names 3, which is no training sample"),
        ("p.csv", "sample,client\n0,a\n1,b\n1,a\n2,a\n", "names the training sample 1 twice"),
        ("p.csv", "index,client\n0,a\n", "its first line must name the columns sample,client"),
        ("p.csv", "sample,client\n0,a\n1\n2,a\n", "line 3 has another number of columns"),
        ("p.csv", "sample,client\n0,a\n1,\n2,a\n", "no client is named for 1"),
        ("p.csv", "", "its first line must name the columns"),
        ("p.csv", "sample,client\n0,\xff\n", "it is not UTF-8 text"),
        ("p.json", '{"0": "a", "1": "b", "1": "a", "2": "a"}', "names the training sample 1 twice"),
        ("p.json", '{"0": "a", "1": 1.5, "2": "a"}', "the client of 1 is neither text nor a whole"),
        ("p.json", '["a", "b", "a"]', "it must be an object"),
        ("p.json", "{", "cannot be read as a JSON object"),
    ],
)
def test_files_of_a_partition_that_do_not_fit_are_refused(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    """Nothing is guessed: each sample is named once."""
    (tmp_path / name).write_bytes(content.encode("latin1"))
    with pytest.raises(BadData, match=message):
        read_partition(tmp_path / name, 3)


def test_another_file_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    """The content of the file is part of the trial."""
    save_npz(tmp_path / "a.npz")
    write_csv(tmp_path / "p.csv", ["a", "b"] * 12)
    planned = read_partition(tmp_path / "p.csv", 24).fingerprint
    chosen = config(
        dataset="arrays",
        file="a.npz",
        partition="file",
        partition_file="p.csv",
        partition_fingerprint=planned,
        alpha=None,
        clients=None,
    )
    assert seq.load(chosen, tmp_path).groups == ("a", "b")
    write_csv(tmp_path / "p.csv", ["a", "a", "b"] * 8)
    with pytest.raises(Missing, match=r"p\.csv here .* is not the file that the trial was planned"):
        seq.load(chosen, tmp_path)
    (tmp_path / "p.csv").unlink()
    with pytest.raises(Missing, match=r"there is no file .*p\.csv"):
        seq.load(chosen, tmp_path)


# Image folders by client


def by_part(root: Path) -> Path:
    """Two domains in train/ and test/."""
    for place in ("photo", "sketch"):
        made = make_image_folder(root / "made" / place, each=8)
        for part in ("train", "test"):
            (root / part).mkdir(exist_ok=True)
            (made / part).rename(root / part / place)
    shutil.rmtree(root / "made")
    return root


def by_domain(root: Path) -> Path:
    """Two domains, each with train/ and test/."""
    for place in ("photo", "sketch"):
        make_image_folder(root / place, each=8)
    return root


@pytest.mark.parametrize("make", [by_part, by_domain])
def test_a_folder_for_each_domain_is_a_client(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Both layouts give the same images. Each client has test images of its own."""
    data = datasets.load("imagefolder", make(tmp_path), image_size=8, clients_by="folder")
    assert data.groups == ("photo", "sketch")
    assert data.members is not None
    assert data.members.tolist() == [0] * 16 + [1] * 16
    assert data.train.labels.tolist() == ([0] * 8 + [1] * 8) * 2
    assert data.test_members is not None
    assert data.test_members.tolist() == [0] * 4 + [1] * 4
    files = list_files("imagefolder", tmp_path, "folder")
    assert files.stock().groups == (16, 16)
    assert files.stock().tested == (4, 4)
    assert files.found[0].startswith("2 classes, 32 + 8 images, 2 clients")
    assert files.found[1:3] == ("classes: class0, class1", "clients: photo, sketch")


def test_a_class_of_one_client_that_looks_misspelled_is_named(tmp_path: Path) -> None:
    """It looks like a class that the client lacks. Other classes of one client are usual."""
    root = by_part(tmp_path)
    (root / "train" / "photo" / "class1").rename(root / "train" / "photo" / "clas1")
    shutil.rmtree(root / "test" / "photo" / "class1")
    shutil.copytree(root / "train" / "photo" / "class0", root / "train" / "photo" / "zebra")
    found = list_files("imagefolder", root, "folder").found
    assert [note for note in found if "misspelled" in note] == [
        "classes of one client that may be misspelled: clas1 of photo (class1)"
    ]


@pytest.mark.parametrize(("name", "own"), [("person_{}", 2), ("class{}x", 2), ("{:08x}", 4)])
def test_numbered_classes_of_one_client_are_not_taken_for_misspelled_ones(
    name: str, own: int, tmp_path: Path
) -> None:
    """Each client may have classes of its own, as people have."""
    for part, client, label in product(("train", "test"), range(3), range(own)):
        place = tmp_path / part / f"c{client}" / name.format(7919 * (4 * client + label))
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "x.png")
    found = list_files("imagefolder", tmp_path, "folder").found
    assert found[0].startswith(f"{3 * own} classes, {3 * own} + {3 * own} images, 3 clients")
    assert not [note for note in found if "misspelled" in note]


def test_both_layouts_of_domains_decode_to_the_same_data(tmp_path: Path) -> None:
    one, other = (
        datasets.load("imagefolder", make(tmp_path / make.__name__), clients_by="folder")
        for make in (_made(by_part), _made(by_domain))
    )
    assert one.fingerprint == other.fingerprint


def _made(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Return a maker of a folder that it creates first."""

    def made(root: Path) -> Path:
        root.mkdir()
        return make(root)

    made.__name__ = make.__name__
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "test"), "there is no folder .*test: make train/CLIENT"),
        (lambda root: shutil.rmtree(root / "train" / "photo"), "training images .photo.: add some"),
        (lambda root: shutil.rmtree(root / "train"), "holds no folders of clients: make train"),
        (
            lambda root: (
                shutil.rmtree(root / "train" / "photo" / "class1")
                or shutil.rmtree(root / "train" / "sketch" / "class1")
            ),
            "hold one class with images, class0",
        ),
        (
            lambda root: (root / "test" / "photo" / "class1").rename(
                root / "test" / "photo" / "class9"
            ),
            "class9 is a class without training images",
        ),
        (
            lambda root: [file.unlink() for file in (root / "train" / "photo").rglob("*.png")],
            "photo holds no images",
        ),
    ],
)
def test_folders_of_clients_that_do_not_fit_are_refused(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    change(by_part(tmp_path))
    with pytest.raises(BadData, match=message):
        list_files("imagefolder", tmp_path, "folder")


def test_a_client_without_test_images_is_named(tmp_path: Path) -> None:
    """Its own accuracy is not measured."""
    shutil.rmtree(by_part(tmp_path) / "test" / "sketch")
    files = list_files("imagefolder", tmp_path, "folder")
    note = "1 client without test images, whose own accuracy is not measured: sketch"
    assert note in files.found
    assert files.stock().tested == (4, 0)


def write_clients(root: Path, *, tested: bool = True) -> list[str]:
    """Write clients.csv for a folder, and return its lines."""
    files = sorted(path for path in root.rglob("*.png"))
    places = [path.relative_to(root).as_posix() for path in files]
    chosen = [place for place in places if tested or place.startswith("train")]
    lines = ["file,client", *(f"{place},{'ab'[i % 2]}" for i, place in enumerate(chosen))]
    (root / "clients.csv").write_text("\n".join(lines))
    return lines


def test_a_table_names_the_clients_of_an_image_folder(image_folder: Path) -> None:
    """The table is part of the fingerprint. Test images may be left out."""
    lines = write_clients(image_folder)
    data = datasets.load("imagefolder", image_folder, clients_by="csv")
    assert data.groups == ("a", "b")
    assert data.test_members is not None
    place = lines[1].partition(",")[0]
    assert place.startswith("test/")
    before = list_files("imagefolder", image_folder, "csv").fingerprint()
    write_clients(image_folder, tested=False)
    files = list_files("imagefolder", image_folder, "csv")
    assert files.test_members == ()
    assert files.fingerprint() != before
    assert files.stock().groups == (24, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "lacks 1 training image .the first is train/class1/023"),
        (lambda lines: [*lines, lines[-1]], "names the training image train/.* twice"),
        (lambda lines: [*lines, "train/none.png,a"], "names train/none.png, which is no training"),
        (lambda lines: [lines[0], *lines[2:]], "lacks 1 test image .the first is test/class0/000"),
        (
            lambda lines: [line.replace(",a", ",c") if "test/" in line else line for line in lines],
            "test images of clients without training images .c.: give them to other",
        ),
        (lambda lines: ["a,b", *lines[1:]], "its first line must name the columns file,client"),
    ],
)
def test_tables_of_clients_that_do_not_fit_are_refused(
    change: Callable[[list[str]], list[str]], message: str, image_folder: Path
) -> None:
    lines = change(write_clients(image_folder))
    (image_folder / "clients.csv").write_text("\n".join(lines))
    with pytest.raises(BadData, match=message):
        list_files("imagefolder", image_folder, "csv")


# Lists in the form of DomainNet


def write_lists(root: Path) -> dict[str, list[str]]:
    """Write the lists of two domains, whose images lie in DOMAIN/CLASS/. Return their lines."""
    lists = {}
    for domain in ("real", "clipart"):
        for part, count in (("train", 3), ("test", 1)):
            names = [
                f"{domain}/{kind}/{part}_{i}.jpg" for kind in ("ant", "bee") for i in range(count)
            ]
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shade = (60, 60, 60) if "ant" in name else (200, 200, 200)
                Image.new("RGB", (12, 8), shade).save(root / name)
            lines = [f"{name} {7 if 'ant' in name else 9}" for name in reversed(names)]
            lists[f"{domain}_{part}.txt"] = lines
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    return lists


def test_the_lists_of_domainnet_make_a_client_of_each_domain(tmp_path: Path) -> None:
    """Each has its own test images. The numbers of the classes may have gaps, and the lists are
    part of the fingerprint.
    """
    lists = write_lists(tmp_path)
    data = datasets.load("imagefolder", tmp_path, image_size=8, clients_by="lists")
    assert data.groups == ("clipart", "real")
    assert data.members is not None
    assert data.members.tolist() == [0] * 6 + [1] * 6
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert data.test_members is not None
    assert data.test_members.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [60, 60, 60, 200, 200, 200] * 2
    assert data.classes == 2
    files = list_files("imagefolder", tmp_path, "lists")
    assert files.found == ("2 classes, 12 + 4 images, 2 clients", "clients: clipart, real")
    assert files.names()[0] == "clipart/ant/train_0.jpg"
    (tmp_path / "real_train.txt").write_text("\n".join(lists["real_train.txt"][1:]))
    changed = list_files("imagefolder", tmp_path, "lists")
    assert changed.stock().groups == (6, 5)
    assert changed.fingerprint() != files.fingerprint()


def test_a_domain_without_a_list_of_test_images_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    (tmp_path / "real_test.txt").unlink()
    files = list_files("imagefolder", tmp_path, "lists")
    note = "1 client without test images, whose own accuracy is not measured: real"
    assert files.found[2:] == (note,)
    assert files.stock().tested == (2, 0)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("real_train.txt", lambda _: [], "real_train.txt names no images: put the complete list"),
        ("real_train.txt", lambda _: ["real"], "line 1 of .* is not the file of an image and the"),
        ("real_train.txt", lambda _: ["real/ant/train_0.jpg x"], "line 1 of .* number of its cla"),
        ("real_train.txt", lambda _: ["/etc/a.jpg 1"], "line 1 of .* names a file outside of"),
        ("real_train.txt", lambda _: ["real/../../a.jpg 1"], "names a file outside of"),
        ("real_train.txt", lambda _: ["real/no.jpg 7"], "names real/no.jpg, which is no image in"),
        ("real_train.txt", lambda _: ["real_test.txt 7"], "real_test.txt, which is no image in"),
        ("real_train.txt", lambda lines: [*lines, lines[0]], "line 7 of .* a second time: remove"),
        ("real_test.txt", lambda _: ["real/ant/train_0.jpg 7"], "a second time: remove it"),
        ("real_test.txt", lambda _: ["real/ant/test_0.jpg 8"], "the class 8, which has no train"),
        ("toy_test.txt", lambda _: ["real/ant/test_0.jpg 7"], r"of training images \(toy\): add"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    file: str, change: Callable[[list[str]], list[str]], message: str, tmp_path: Path
) -> None:
    lists = write_lists(tmp_path)
    (tmp_path / file).write_text("\n".join(change(lists.get(file, []))))
    with pytest.raises(BadData, match=message):
        list_files("imagefolder", tmp_path, "lists")


def test_lists_of_one_class_are_refused(tmp_path: Path) -> None:
    for file, lines in write_lists(tmp_path).items():
        (tmp_path / file).write_text("\n".join(line for line in lines if line.endswith("7")))
    with pytest.raises(BadData, match="name one class: classification needs two or more"):
        list_files("imagefolder", tmp_path, "lists")


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"holds no lists CLIENT_train\.txt and CLIENT_test\.txt"):
        list_files("imagefolder", tmp_path, "lists")


def test_an_image_folder_without_its_table_is_refused(image_folder: Path) -> None:
    with pytest.raises(Missing, match=r"there is no file .*clients\.csv"):
        list_files("imagefolder", image_folder, "csv")
