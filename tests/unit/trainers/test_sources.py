"""Data sets on disk and in the net: what is read, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from platformdirs import user_cache_path
from torchvision.datasets import CIFAR100

from tests.image_folders import make_image_folder, make_tiny_imagenet
from trainers.data import datasets, downloads
from trainers.data.dataset import VOID
from trainers.data.errors import BadData
from trainers.data.files import list_files


def pixels(path: Path) -> torch.Tensor:
    """Return an image as Pillow decodes it."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def save(values: np.ndarray, path: Path) -> None:
    """Write gray values as an image."""
    Image.fromarray(values.astype(np.uint8)).save(path)


def test_a_plan_lists_files_without_torch(image_folder: Path) -> None:
    """It would cost seconds."""
    ask = f"""
import sys, pathlib
from trainers.data.files import list_files
list_files("imagefolder", pathlib.Path({str(image_folder)!r})).fingerprint()
assert not {{"torch", "torchvision", "PIL", "numpy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Image folders


def test_an_image_folder_is_decoded_to_rgb_of_one_size(image_folder: Path) -> None:
    """Gray images and larger ones too; classes and files in alphabetical order."""
    found = datasets.load("imagefolder", image_folder, image_size=32)
    assert found.train.images.shape == (48, 32, 32, 3)
    assert found.train.labels.tolist() == [0] * 24 + [1] * 24
    assert found.classes == 2
    assert not found.segmentation
    gray = found.train.images[3]
    assert torch.equal(gray[..., 0], gray[..., 1])
    assert torch.equal(found.train.images[1], pixels(image_folder / "train/class0/001.png"))


def test_the_fingerprint_is_of_the_content_not_the_place(tmp_path: Path) -> None:
    """A copy elsewhere is the same data; one changed byte is not."""
    first = list_files("imagefolder", make_image_folder(tmp_path / "a")).fingerprint()
    second = list_files("imagefolder", make_image_folder(tmp_path / "b"))
    assert second.fingerprint() == first
    victim = tmp_path / "b" / "test" / "class1" / "000.png"
    victim.write_bytes(victim.read_bytes() + b"\0")
    assert list_files("imagefolder", tmp_path / "b").fingerprint() != first


def test_released_fingerprints_never_change(tmp_path: Path) -> None:
    """They stand in the identity of people's trials; here of four bytes that are no images."""
    for i, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.png").write_bytes(bytes([i]))
    found = list_files("imagefolder", tmp_path).fingerprint()
    assert found == "d3e3bf4322698142892603e590e91734"


def test_empty_and_hidden_folders_are_no_classes(image_folder: Path) -> None:
    """They would move the labels without changing the fingerprint."""
    before = list_files("imagefolder", image_folder)
    (image_folder / "train" / "a-new-class").mkdir()
    (image_folder / "train" / ".thumbnails").mkdir()
    (image_folder / "test" / "another").mkdir()
    assert list_files("imagefolder", image_folder) == before
    assert before.classes == ("class0", "class1")


def test_missing_and_damaged_folders_are_bad_data(image_folder: Path, tmp_path: Path) -> None:
    """Each with a sentence that names the place."""
    with pytest.raises(BadData, match="no folder .*nowhere/train"):
        list_files("imagefolder", tmp_path / "nowhere")
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    with pytest.raises(BadData, match="holds no images"):
        list_files("imagefolder", tmp_path / "empty")
    strange = image_folder / "test" / "stranger"
    shutil.copytree(image_folder / "test" / "class0", strange)
    with pytest.raises(BadData, match="stranger is a class without training images"):
        list_files("imagefolder", image_folder)
    shutil.rmtree(strange)
    (image_folder / "train" / "class0" / "005.png").write_bytes(b"no image")
    with pytest.raises(BadData, match="005.png cannot be read"):
        datasets.load("imagefolder", image_folder, image_size=32)


@pytest.mark.parametrize("dataset", ["imagefolder", "camvid", "cityscapes"])
def test_a_data_set_that_is_never_downloaded_needs_a_place(dataset: str) -> None:
    """The sentence says how to get it and how to name its folder."""
    with pytest.raises(BadData, match=f"{dataset} needs its data: .* --data or FEDSWEEP_DATA"):
        datasets.load(dataset)


@pytest.mark.parametrize("dataset", ["tiny-imagenet", "camvid", "cityscapes"])
def test_a_folder_in_another_layout_is_bad_data(dataset: str, image_folder: Path) -> None:
    """The sentence names the folder, its parts, and where to get them."""
    with pytest.raises(BadData, match=f"neither {image_folder} nor .* holds .*train.*: .*http"):
        datasets.load(dataset, image_folder)


def test_channel_statistics_are_those_of_numpy(image_folder: Path) -> None:
    """Mean and standard deviation of each channel, over all training images."""
    found = datasets.load("imagefolder", image_folder, image_size=32)
    values = found.train.images.numpy().reshape(-1, 3).astype(np.float64)
    assert np.allclose(found.mean, values.mean(0), rtol=1e-12)
    assert np.allclose(found.std, values.std(0), rtol=1e-12)


# Tiny-ImageNet


def test_tiny_imagenet_is_read_in_its_official_layout(tiny_imagenet: Path) -> None:
    """Classes are the sorted wnids; the validation images test, with the labels of their list."""
    base = tiny_imagenet / "tiny-imagenet-200"
    found = datasets.load("tiny-imagenet", tiny_imagenet)
    assert found.train.images.shape == (18, 64, 64, 3)
    assert found.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert torch.equal(found.train.images[7], pixels(base / "train/n02/images/n02_1.JPEG"))
    # The list gives val_0 and val_3 to n03, val_1 and val_4 to n01, val_2 and val_5 to n02.
    assert found.test.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert torch.equal(found.test.images[4], pixels(base / "val/images/val_4.JPEG"))
    assert found.classes == 3
    assert found.mean[0] == 255 * 0.4802
    assert found.std[2] == 255 * 0.2821
    assert datasets.load("tiny-imagenet", base).fingerprint == found.fingerprint


def test_grey_images_of_tiny_imagenet_become_rgb(tiny_imagenet: Path) -> None:
    """Their three channels are equal; some of the official ones are gray."""
    found = datasets.load("tiny-imagenet", tiny_imagenet)
    gray, colored = found.train.images[0], found.train.images[1]
    assert torch.equal(gray[..., 0], gray[..., 2])
    assert not torch.equal(colored[..., 0], colored[..., 2])


def test_a_wnid_counts_where_it_is_listed_and_has_images(tiny_imagenet: Path) -> None:
    """So that a part of the classes, or a stray folder, does no harm."""
    base = tiny_imagenet / "tiny-imagenet-200"
    with (base / "wnids.txt").open("a") as listed:
        listed.write("n00\n")
    shutil.copytree(base / "train" / "n01", base / "train" / "n00-backup")
    assert list_files("tiny-imagenet", base).classes == ("n01", "n02", "n03")


@pytest.mark.parametrize("name", ["wnids.txt", "val/val_annotations.txt"])
def test_the_lists_of_tiny_imagenet_are_utf_8(tiny_imagenet: Path, name: str) -> None:
    """A byte-order mark drops no class and no label; another encoding is named with its line."""
    before = list_files("tiny-imagenet", tiny_imagenet)
    file = tiny_imagenet / "tiny-imagenet-200" / name
    content = file.read_text()
    file.write_text("\ufeff" + content, encoding="utf-8", newline="\r\n")
    after = list_files("tiny-imagenet", tiny_imagenet)
    assert (after.classes, after.train, after.test) == (before.classes, before.train, before.test)
    file.write_text(content, encoding="utf-16")
    with pytest.raises(BadData, match=f"{name} cannot be read: it is UTF-16 from line 1 on"):
        list_files("tiny-imagenet", tiny_imagenet)


def test_other_labels_of_the_same_images_are_another_content(tiny_imagenet: Path) -> None:
    """The list of the validation images is part of the fingerprint."""
    before = list_files("tiny-imagenet", tiny_imagenet).fingerprint()
    annotations = tiny_imagenet / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n01", "n02"))
    assert list_files("tiny-imagenet", tiny_imagenet).fingerprint() != before


def test_a_validation_image_without_a_known_class_is_bad_data(tiny_imagenet: Path) -> None:
    """The message names the image with an unknown wnid, or without one."""
    annotations = tiny_imagenet / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    listed = annotations.read_text()
    annotations.write_text(listed.replace("n02", "n99"))
    with pytest.raises(BadData, match="val_2.JPEG is of n99, a class without training images"):
        list_files("tiny-imagenet", tiny_imagenet)
    annotations.write_text(listed.partition("\n")[2])
    with pytest.raises(BadData, match="val_0.JPEG has no line in .*val_annotations.txt"):
        list_files("tiny-imagenet", tiny_imagenet)


def unpack_tiny_imagenet(archive: Path, root: Path, classes: int) -> Path:
    """Unpack the first classes of real Tiny-ImageNet. Return their folder."""
    base = "tiny-imagenet-200"
    with zipfile.ZipFile(archive) as images:
        listed = f"{base}/val/val_annotations.txt"
        lines = images.read(listed).decode().splitlines()
        classes_of = {line.split("\t")[0]: line.split("\t")[1] for line in lines}
        chosen = set(sorted(set(classes_of.values()))[:classes])

        def is_chosen(name: str) -> bool:
            path = Path(name)
            trained = chosen & set(path.parts)
            return bool(trained) or path.name == "wnids.txt" or classes_of.get(path.name) in chosen

        images.extractall(root, [name for name in images.namelist() if is_chosen(name)])
    kept = [line for line in lines if line.split("\t")[1] in chosen]
    (root / listed).write_text("\n".join([*kept, ""]))
    return root


@pytest.mark.data
@pytest.mark.parametrize("classes", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_the_real_tiny_imagenet_is_read(classes: int, real_data: Path, tmp_path: Path) -> None:
    """A few of its classes: 500 training and 50 test images each, some of them gray."""
    root = unpack_tiny_imagenet(real_data / "tiny-imagenet-20.zip", tmp_path, classes)
    found = datasets.load("tiny-imagenet", root)
    assert found.train.images.shape == (500 * classes, 64, 64, 3)
    assert found.train.labels.bincount().tolist() == [500] * classes
    assert found.test.labels.bincount().tolist() == [50] * classes
    files = list_files("tiny-imagenet", root)
    assert files.classes[0] == "n01641577"
    assert torch.equal(found.test.images[3], pixels(files.test[3][0]))
    same = (found.train.images == found.train.images[..., :1]).flatten(1).all(1)
    assert 0 < same.sum() < 50 * classes


# Road scenes


def test_camvid_has_eleven_classes_void_and_its_drives(camvid: Path) -> None:
    """Label 11 is void; a drive is an image's name up to the underscore."""
    found = datasets.load("camvid", camvid, image_height=48)
    assert found.segmentation
    assert found.classes == 11
    assert found.train.images.shape == (6, 48, 64, 3)
    assert found.train.labels.dtype == torch.uint8
    assert found.groups == ("0006R0", "0016E5")
    assert found.members is not None
    assert found.members.tolist() == [0, 0, 0, 1, 1, 1]
    name = "0016E5_f00002.png"
    assert torch.equal(found.train.images[5], pixels(camvid / "CamVid" / "train" / name))
    with Image.open(camvid / "CamVid" / "trainannot" / name) as label:
        wanted = np.array(label)
    wanted[wanted == 11] = VOID
    assert np.array_equal(found.train.labels[5].numpy(), wanted)
    assert found.mean[0] == 255 * 0.485


def test_a_test_set_without_a_counted_pixel_is_bad_data(camvid: Path) -> None:
    """Its loss and mean IoU would be 0/0."""
    for path in (camvid / "CamVid" / "testannot").iterdir():
        save(np.full(np.array(Image.open(path)).shape, 11), path)
    with pytest.raises(BadData, match="every pixel of the test images"):
        datasets.load("camvid", camvid, image_height=32)


def test_cityscapes_has_nineteen_classes_void_and_its_cities(cityscapes: Path) -> None:
    """Every label id of the official table, by hand; cities are the clients."""
    place = cityscapes / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    ids = np.zeros((32, 64))
    ids[0, :35] = [*range(34), 255]
    save(ids, place)
    found = datasets.load("cityscapes", cityscapes, image_height=32)
    void = VOID
    wanted = [
        void, void, void, void, void, void, void, 0, 1, void, void, 2, 3, 4, void, void, void, 5,
        void, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, void, void, 16, 17, 18, void,
    ]  # fmt: skip
    assert found.train.labels[0, 0, :35].tolist() == wanted
    assert found.classes == 19
    assert found.groups == ("aachen", "ulm")
    assert found.members is not None
    assert found.members.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.images.shape == (3, 32, 64, 3)
    assert (found.height, found.width, found.size) == (32, 64, 32)


def test_road_scenes_are_resized_to_a_height_and_a_multiple_of_sixteen(camvid: Path) -> None:
    """64x48 at height 32 is 42.7 wide, so 48; labels stay labels; all take the first's size."""
    odd = camvid / "CamVid" / "train" / "0016E5_f00001.png"
    save(np.full((90, 100), 77), odd)
    save(np.full((90, 100), 3), camvid / "CamVid" / "trainannot" / odd.name)
    found = datasets.load("camvid", camvid, image_height=32)
    assert found.train.images.shape == (6, 32, 48, 3)
    assert (found.train.images[4] == 77).all()
    assert (found.train.labels[4] == 3).all()
    assert set(found.train.labels.unique().tolist()) == {*range(11), VOID}
    assert found.test.images.shape == (3, 32, 48, 3)


def test_the_groups_are_part_of_what_a_road_scene_is(camvid: Path) -> None:
    """The same images from other drives are another fingerprint of the data."""
    before = datasets.load("camvid", camvid, image_height=16).fingerprint
    for folder in ("train", "trainannot"):
        place = camvid / "CamVid" / folder
        (place / "0016E5_f00000.png").rename(place / "0006R0_f00009.png")
    after = datasets.load("camvid", camvid, image_height=16)
    assert after.members is not None
    assert after.members.tolist() == [0, 0, 0, 0, 1, 1]
    assert after.fingerprint != before


def test_a_label_that_is_no_class_is_bad_data(camvid: Path, cityscapes: Path) -> None:
    """As is a label image in colors, or of another size than its image."""
    label = camvid / "CamVid" / "testannot" / "Seq05VD_f00001.png"
    save(np.full((48, 64), 12), label)
    with pytest.raises(BadData, match="Seq05VD_f00001.png holds the label 12, which is no class"):
        datasets.load("camvid", camvid)
    save(np.zeros((48, 64, 3)), label)
    with pytest.raises(BadData, match="Seq05VD_f00001.png is no label image"):
        datasets.load("camvid", camvid)
    save(np.zeros((48, 32)), label)
    with pytest.raises(BadData, match="Seq05VD_f00001.png .* differ in size"):
        datasets.load("camvid", camvid)
    save(
        np.full((32, 64), 34),
        cityscapes / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
    )
    with pytest.raises(BadData, match="labelIds.png holds the label 34"):
        datasets.load("cityscapes", cityscapes)


def test_a_image_without_its_label_image_is_bad_data(camvid: Path, cityscapes: Path) -> None:
    """The sentence names both."""
    (camvid / "CamVid" / "trainannot" / "0006R0_f00001.png").unlink()
    with pytest.raises(BadData, match="train/0006R0_f00001.png has no label image .*trainannot"):
        list_files("camvid", camvid)
    stem = "leftImg8bit/val/lindau/lindau_000000_000019_"
    (cityscapes / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(BadData, match=f"{stem}leftImg8bit.png has no label .*gtFine_labelIds"):
        list_files("cityscapes", cityscapes)


@pytest.mark.data
def test_the_real_camvid_is_read(real_camvid: Path) -> None:
    """A tenth of it: three drives, all eleven classes, void a small part."""
    found = datasets.load("camvid", real_camvid)
    assert found.train.images.shape == (31, 256, 336, 3)
    assert found.test.labels.shape == (20, 256, 336)
    assert found.groups == ("0001TP", "0006R0", "0016E5")
    assert found.members is not None
    assert np.bincount(found.members).tolist() == [6, 8, 17]
    assert set(found.train.labels.unique().tolist()) == {*range(11), VOID}
    assert 0 < (found.train.labels == VOID).double().mean() < 0.1


@pytest.mark.parametrize("dataset", ["imagefolder", "tiny-imagenet", "camvid", "cityscapes"])
def test_another_content_than_planned_is_bad_data(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    """A plan that pinned its files is not trained on others, decoded before or not."""
    fixture = {"imagefolder": "image_folder"}.get(dataset, dataset.replace("-", "_"))
    root = request.getfixturevalue(fixture)
    planned = list_files(dataset, root).fingerprint()
    for _ in range(2):
        with pytest.raises(BadData, match=f"fingerprint {planned}. are not those .*{'0' * 32}"):
            datasets.load(dataset, root, fingerprint="0" * 32)
        datasets.load(dataset, root, fingerprint=planned)


# CIFAR


def test_a_missing_cifar10_is_bad_data_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that the data set was neither found nor downloaded."""
    import torchvision.datasets.utils as downloads

    def refused(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(downloads, "_get_redirect_url", refused)
    with pytest.raises(BadData, match="cifar-10-batches-py"):
        datasets.load("cifar10", tmp_path)
    with pytest.raises(BadData, match="CIFAR-100 is not in .*cifar-100-python"):
        datasets.load("cifar100", tmp_path)


def test_cifar10_is_found_in_its_official_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision reads the batches; here tiny ones, their sums taken as they are."""
    from torchvision.datasets import cifar

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)]
    values = np.arange(4 * 3072, dtype=np.uint32).astype(np.uint8).reshape(4, 3072)
    for name in [*names, "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": values, "labels": [0, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    found = datasets.load("cifar10", tmp_path)
    assert found.train.images.shape == (20, 32, 32, 3)
    assert found.test.images.shape == (4, 32, 32, 3)
    assert found.classes == 10
    assert np.array_equal(
        found.test.images[1].numpy(), values[1].reshape(3, 32, 32).transpose(1, 2, 0)
    )
    assert found.fingerprint == "4e498dea494c74c40c255827d8bcfcf5"


def make_cifar100(root: Path) -> dict[str, str]:
    """Three images with fine labels, twice; returns the sums of the files."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    batch = {"data": np.arange(3 * 3072).astype(np.uint8).reshape(3, 3072)}
    labels = {"fine_labels": [0, 42, 99], "coarse_labels": [0, 1, 19]}
    names = {"fine_label_names": [str(i) for i in range(100)]}
    files = {"train": batch | labels, "test": batch | labels, "meta": names}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}


def test_cifar100_is_found_in_its_official_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hundred fine labels."""
    from torchvision.datasets import cifar

    make_cifar100(tmp_path)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    found = datasets.load("cifar100", tmp_path)
    assert found.train.labels.tolist() == [0, 42, 99]
    assert found.classes == 100
    assert found.mean[0] == 255 * 0.5071


# Downloads


class _Archive(http.server.SimpleHTTPRequestHandler):
    """Serves an archive: whole, or promising more than it sends."""

    content = b""
    sent = 0
    asked = 0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        type(self).asked += 1
        self.do_HEAD()
        self.wfile.write(self.content[: self.sent])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Archive]]:
    """A server of small archives in the place of the real ones, and an empty cache."""
    handler = type("Handler", (_Archive,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(downloads, "TINY_URL", f"{base}/tiny-imagenet-200.zip")
    monkeypatch.setattr(CIFAR100, "url", f"{base}/cifar-100-python.tar.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def tiny_net(
    net: type[_Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> type[_Archive]:
    """A small Tiny-ImageNet in the net."""
    served = make_tiny_imagenet(tmp_path / "served")
    shutil.make_archive(str(served), "zip", served)
    net.content = served.with_suffix(".zip").read_bytes()
    net.sent = len(net.content)
    monkeypatch.setattr(downloads, "TINY_MD5", hashlib.md5(net.content).hexdigest())
    return net


@pytest.fixture
def cifar_net(
    net: type[_Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> type[_Archive]:
    """A small CIFAR-100 in the net."""
    sums = make_cifar100(tmp_path / "served")
    archive = shutil.make_archive(str(tmp_path / "served"), "gztar", tmp_path / "served")
    net.content = Path(archive).read_bytes()
    net.sent = len(net.content)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(net.content).hexdigest())
    for part in ("train", "test"):
        monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, sums[part]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return net


def left(place: Path) -> set[str]:
    """Return the names in a folder, without locks."""
    return {path.name for path in place.iterdir() if path.suffix != ".lock"}


def test_a_missing_tiny_imagenet_is_downloaded_once(
    tiny_net: type[_Archive], capfd: pytest.CaptureFixture[str]
) -> None:
    """Into the user's cache, with a bar of its progress; the archive is not kept."""
    found = datasets.load("tiny-imagenet")
    assert found.train.images.shape == (18, 64, 64, 3)
    assert "100%" in capfd.readouterr().err
    assert left(user_cache_path("fedsweep")) == {"tiny-imagenet-200", "decoded"}
    asked = tiny_net.asked
    assert datasets.load("tiny-imagenet").fingerprint == found.fingerprint
    assert tiny_net.asked == asked


def truncated(net: type[_Archive]) -> None:
    net.sent = len(net.content) // 2


def altered(net: type[_Archive]) -> None:
    net.content = net.content[:-1] + b"\1"


@pytest.mark.parametrize("harm", [truncated, altered])
@pytest.mark.parametrize(
    ("dataset", "name"), [("tiny-imagenet", "Tiny-ImageNet"), ("cifar100", "CIFAR-100")]
)
def test_a_damaged_download_is_bad_data_and_no_obstacle(
    dataset: str,
    name: str,
    harm: Callable[[type[_Archive]], None],
    request: pytest.FixtureRequest,
) -> None:
    """One sentence; nothing of it passes for data, and the next try succeeds."""
    net = request.getfixturevalue({"cifar100": "cifar_net"}.get(dataset, "tiny_net"))
    good = net.content
    harm(net)
    with pytest.raises(BadData, match=f"^{name} is not in .* and could not be downloaded"):
        datasets.load(dataset)
    assert left(user_cache_path("fedsweep")) <= {"cifar-100-python.tar.gz"}
    net.content, net.sent = good, len(good)
    assert len(datasets.load(dataset).train.labels) in (3, 18)


def test_files_of_a_killed_download_are_no_obstacle(tiny_net: type[_Archive]) -> None:
    """A partial archive and a partial tree stay aside, and the next process starts again."""
    aside = user_cache_path("fedsweep") / ".tiny-imagenet-200.new"
    (aside / "tiny-imagenet-200" / "train" / "n01").mkdir(parents=True)
    (aside / "tiny-imagenet-200.zip").write_bytes(tiny_net.content[:100])
    assert datasets.load("tiny-imagenet").train.images.shape == (18, 64, 64, 3)
    assert left(user_cache_path("fedsweep")) == {"tiny-imagenet-200", "decoded"}


def test_a_named_place_without_tiny_imagenet_starts_no_download(
    tiny_net: type[_Archive], tmp_path: Path
) -> None:
    """A folder given by --data is the only one that is searched."""
    with pytest.raises(BadData, match="neither .*elsewhere nor tiny-imagenet-200 in it"):
        datasets.load("tiny-imagenet", tmp_path / "elsewhere")
    assert tiny_net.asked == 0
