"""Decoded data sets, kept and shared."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.image_folders import make_image_folder
from trainers.data import cache, datasets, sources
from trainers.data.dataset import Dataset, assemble
from trainers.data.errors import BadData
from trainers.data.files import list_files


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, as yet empty."""
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets decoded in this process, as they are decoded."""
    done: list[str] = []
    for name in ("image_folder", "road_scenes"):
        original = getattr(sources, name)

        def counted(*given: Any, name: str = name, original: Any = original) -> Dataset:
            done.append(name)
            found: Dataset = original(*given)
            return found

        monkeypatch.setattr(sources, name, counted)
    return done


def same(one: Dataset, other: Dataset) -> bool:
    """Return whether two data sets are equal in everything."""
    arrays = [
        (getattr(getattr(one, part), what), getattr(getattr(other, part), what))
        for part in ("train", "test")
        for what in ("images", "labels")
    ]
    rest = ("classes", "mean", "std", "fingerprint", "groups")
    return (
        all(torch.equal(a, b) for a, b in arrays)
        and all(getattr(one, name) == getattr(other, name) for name in rest)
        and np.array_equal(one.members, other.members)
    )


@pytest.mark.parametrize("dataset", ["imagefolder", "tiny-imagenet", "camvid", "cityscapes"])
def test_a_data_set_is_decoded_once(
    dataset: str, kept: Path, decoded: list[str], request: pytest.FixtureRequest
) -> None:
    """A data set from the cache equals the decoded one in every field."""
    fixture = {"imagefolder": "image_folder"}.get(dataset, dataset.replace("-", "_"))
    root = request.getfixturevalue(fixture)
    first = datasets.load(dataset, root, image_height=32)
    second = datasets.load(dataset, root, image_height=32)
    assert len(decoded) == 1
    assert same(first, second)
    source = sources.find(dataset, root, image_size=None, image_height=32)
    assert same(source.decode(), second)


def test_processes_share_the_pages_and_none_can_change_the_file(
    kept: Path, image_folder: Path
) -> None:
    """The arrays are mapped from the file, copied where they are written."""
    found = datasets.load("imagefolder", image_folder)
    (file,) = kept.glob("imagefolder-*/train_images.npy")
    maps = Path("/proc/self/maps")
    if maps.exists():
        (line,) = (text for text in maps.read_text().splitlines() if str(file) in text)
        assert line.split()[1] == "rw-p"
    before = file.read_bytes()
    found.train.images.zero_()
    assert file.read_bytes() == before
    assert datasets.load("imagefolder", image_folder).train.images.any()


def test_a_changed_file_is_decoded_anew(kept: Path, decoded: list[str], image_folder: Path) -> None:
    """As is another size; the old ones stay."""
    first = datasets.load("imagefolder", image_folder)
    victim = image_folder / "train" / "class0" / "001.png"
    (image_folder / "train" / "class0" / "004.png").replace(victim)
    second = datasets.load("imagefolder", image_folder)
    assert second.fingerprint != first.fingerprint
    assert len(second.train.labels) == len(first.train.labels) - 1
    os.utime(victim, ns=(1, 1))
    third = datasets.load("imagefolder", image_folder)
    assert third.fingerprint == second.fingerprint
    assert datasets.load("imagefolder", image_folder, image_size=16).size == 16
    assert len(decoded) == len(list(kept.glob("imagefolder-*"))) == 4


def test_a_copy_of_the_same_files_finds_what_was_decoded(
    kept: Path, decoded: list[str], image_folder: Path, tmp_path: Path
) -> None:
    """The key does not depend on the path of a tree, as long as its files keep their times."""
    datasets.load("imagefolder", image_folder)
    datasets.load("imagefolder", image_folder.rename(tmp_path / "moved"))
    assert len(decoded) == 1


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


def beheaded(content: bytes) -> bytes:
    return content[:20] + b"\xff" * 20 + content[40:]


@pytest.mark.parametrize("harm", [cut, emptied, flipped, beheaded, None])
@pytest.mark.parametrize(
    "name", ["train_images.npy", "test_labels.npy", "members.npy", "facts.json"]
)
def test_a_damaged_entry_is_decoded_again_and_replaced(
    name: str,
    harm: Callable[[bytes], bytes] | None,
    kept: Path,
    decoded: list[str],
    camvid: Path,
) -> None:
    """Cut short, emptied, one bit flipped, a broken header, or gone."""
    first = datasets.load("camvid", camvid, image_height=16)
    (folder,) = kept.glob("camvid-*")
    content = (folder / name).read_bytes()
    (folder / name).unlink()  # and not written to: `first` is mapped from it
    if harm:
        (folder / name).write_bytes(harm(content))
    for _ in range(2):
        assert same(datasets.load("camvid", camvid, image_height=16), first)
        assert len(decoded) == 2
    assert (folder / name).read_bytes() == content


def test_files_of_a_killed_process_are_no_obstacle(
    kept: Path, decoded: list[str], image_folder: Path
) -> None:
    """A killed process holds no lock, and the next one builds the entry again."""
    source = sources.find("imagefolder", image_folder, image_size=None, image_height=None)
    name = f"imagefolder-{cache.VERSION}-{source.key()}"
    (kept / f".{name}.new").mkdir(parents=True)
    (kept / f".{name}.new" / "train_images.npy").write_bytes(b"half")
    (kept / f".{name}.lock").touch()
    datasets.load("imagefolder", image_folder)
    datasets.load("imagefolder", image_folder)
    assert len(decoded) == 1
    assert {path.name for path in kept.iterdir()} == {name, f".{name}.lock"}


ASKS = """
import pathlib, sys
from trainers.data import datasets, sources
decode = sources.image_folder
def counted(*given):
    print("decoded")
    return decode(*given)
sources.image_folder = counted
print("ready", flush=True)
sys.stdin.readline()
print(datasets.load("imagefolder", pathlib.Path(sys.argv[1])).fingerprint)
"""
"""A process that waits for the start, then says each decoding and the fingerprint it found."""


def test_one_of_many_threads_that_load_at_the_same_time_decodes(
    kept: Path, tmp_path: Path, decoded: list[str]
) -> None:
    """The lock on the file holds in one process too: one decoding, four equal data sets."""
    root = make_image_folder(tmp_path / "images", each=100)
    barrier = threading.Barrier(4)

    def load(_: int) -> Dataset:
        barrier.wait()
        return datasets.load("imagefolder", root)

    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(load, range(4)))
    assert len(decoded) == 1
    assert len({one.fingerprint for one in loaded}) == 1


@pytest.mark.slow
def test_one_of_many_processes_that_load_at_the_same_time_decodes(
    kept: Path, tmp_path: Path
) -> None:
    """Four real processes, one decoding, four equal data sets."""
    root = make_image_folder(tmp_path / "images", each=100)
    command = [sys.executable, "-c", ASKS, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert said.count("decoded") == 1
    assert said.count(datasets.load("imagefolder", root).fingerprint) == 4


def test_a_place_that_cannot_be_written_costs_a_warning(
    decoded: list[str],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The data are decoded for this process, and trained on."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "file" / "cache"))
    found = datasets.load("imagefolder", image_folder)
    assert len(found.train.labels) == 48
    assert len(decoded) == 1
    assert "FEDSWEEP_CACHE" in caplog.text
    with pytest.raises(BadData, match="are not those"):
        datasets.load("imagefolder", image_folder, fingerprint="0" * 32)


def test_a_full_disk_costs_a_warning(
    kept: Path,
    decoded: list[str],
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing half-written stays, and one decoding was enough."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert len(datasets.load("imagefolder", image_folder).train.labels) == 48
    assert len(decoded) == 1
    assert "No space left on device" in caplog.text
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


def test_the_planned_content_is_read_once(
    kept: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second load compares with what the cache remembers, and reads no image."""
    planned = list_files("imagefolder", image_folder).fingerprint()
    first = datasets.load("imagefolder", image_folder, fingerprint=planned)
    monkeypatch.setattr(sources, "read_content", None)
    assert same(datasets.load("imagefolder", image_folder, fingerprint=planned), first)
    with pytest.raises(BadData, match="are not those"):
        datasets.load("imagefolder", image_folder, fingerprint="0" * 32)


def test_wrong_files_are_refused_before_they_are_decoded(
    kept: Path, decoded: list[str], image_folder: Path
) -> None:
    """So that they cost neither time nor disk."""
    with pytest.raises(BadData, match="are not those"):
        datasets.load("imagefolder", image_folder, fingerprint="0" * 32)
    assert decoded == []
    assert not list(kept.glob("imagefolder-*"))


def test_other_decoders_have_another_key(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's next version may round otherwise; the name of the data set counts too."""
    source = sources.find("imagefolder", image_folder, image_size=None, image_height=None)
    keys = {source.key(), replace(source, dataset="tiny-imagenet").key()}
    monkeypatch.setattr(sources, "version", lambda _: "99")
    assert len(keys | {source.key()}) == 3


def test_digits_that_are_kept_need_no_scikit_learn(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import takes a slot seconds, each time it starts."""
    first = datasets.load("digits")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert same(datasets.load("digits"), first)


# What other users may write


def planted(entry: Path) -> None:
    """Write an entry in which all labels are equal, as its own sums say it should be."""
    kept = cache.read(entry)
    assert kept is not None
    split = replace(kept.data.train, labels=torch.zeros_like(kept.data.train.labels))
    images = [part.images.numpy().copy() for part in (split, kept.data.test)]
    labels = [part.labels.numpy().copy() for part in (split, kept.data.test)]
    made = assemble(
        (images[0], labels[0]),
        (images[1], labels[1]),
        classes=kept.data.classes,
        mean=kept.data.mean,
        std=kept.data.std,
    )
    cache.write(entry, replace(kept, data=made))


def open_root(kept: Path, _: Path) -> None:
    kept.chmod(0o777)


def group_root(kept: Path, _: Path) -> None:
    kept.chmod(0o770)


def open_entry(_: Path, entry: Path) -> None:
    entry.chmod(0o777)


def open_file(_: Path, entry: Path) -> None:
    (entry / "train_labels.npy").chmod(0o666)


def linked_file(_: Path, entry: Path) -> None:
    file = entry / "train_labels.npy"
    file.rename(entry.parent / "elsewhere.npy")
    file.symlink_to(entry.parent / "elsewhere.npy")


def pipe(_: Path, entry: Path) -> None:
    (entry / "facts.json").unlink()
    os.mkfifo(entry / "facts.json")


def foreign_root(kept: Path, _: Path) -> None:
    os.chown(kept, 65534, 65534)


def foreign_entry(_: Path, entry: Path) -> None:
    os.chown(entry, 65534, 65534)


def foreign_file(_: Path, entry: Path) -> None:
    os.chown(entry / "facts.json", 65534, 65534)


IN_THE_ROOT = (open_root, group_root, foreign_root)


@pytest.mark.parametrize(
    "harm",
    [
        *(*IN_THE_ROOT, open_entry, open_file, linked_file, pipe, foreign_entry, foreign_file),
    ],
)
def test_an_entry_that_other_users_may_write_is_not_used(
    harm: Callable[[Path, Path], None],
    kept: Path,
    decoded: list[str],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The data are decoded again, once, into a private place, with one warning."""
    if harm in (foreign_root, foreign_entry, foreign_file) and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    first = datasets.load("imagefolder", image_folder)
    (entry,) = kept.glob("imagefolder-*")
    planted(entry)
    assert not same(datasets.load("imagefolder", image_folder), first)
    harm(kept, entry)
    decoded.clear()
    for _ in range(2):
        assert same(datasets.load("imagefolder", image_folder), first)
    assert decoded == ["image_folder"]
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "is not used, and the data are decoded again: let nobody else write it" in warning
    assert str(kept) in warning
    own = tmp_path / "home" / "fedsweep" / "decoded"
    assert own.is_dir() == (harm in IN_THE_ROOT)


@pytest.mark.parametrize("mask", [0o002, 0o022, 0])
def test_a_cache_is_private_with_any_umask(mask: int, kept: Path, image_folder: Path) -> None:
    """Neither the folders that are made nor the files in them are open to others."""
    before = os.umask(mask)
    try:
        datasets.load("imagefolder", image_folder)
    finally:
        os.umask(before)
    (entry,) = kept.glob("imagefolder-*")
    for place in (kept, entry, *entry.iterdir()):
        assert place.stat().st_mode & 0o777 == (0o700 if place.is_dir() else 0o600)


def test_the_user_s_own_cache_of_an_earlier_version_stays_in_use(
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A umask let the group write its folder, which is closed without a warning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FEDSWEEP_CACHE", raising=False)
    own = tmp_path / "home" / "fedsweep" / "decoded"
    own.mkdir(parents=True)
    own.chmod(0o775)
    datasets.load("imagefolder", image_folder)
    assert own.stat().st_mode & 0o777 == 0o755
    assert len(list(own.glob("imagefolder-*"))) == 1
    assert caplog.records == []
