"""Downloads of the data sets that have a public archive."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from trainers import private, regular
from trainers.data.errors import (
    POINT,
    REMEDIES,
    TINY_IMAGENET,
    MachineLimit,
    Missing,
    refuse_limit,
    shown,
)
from trainers.facts import EMNIST
from trainers.progress import progress

TINY_URL = f"http://cs231n.stanford.edu/{TINY_IMAGENET}.zip"


TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


SILENCE = 60.0
"""Seconds without a byte after which a download has failed."""


def is_whole(folder: Path, reader: Any) -> bool:
    """Return if a folder holds all files of torchvision's list, with their sums."""
    from torchvision.datasets import cifar as lists

    files = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    for name, md5 in files:
        try:
            with regular.opened(folder / name):  # torchvision would read a file of any size
                pass
        except OSError as error:
            refuse_limit(error)
            return False
        if not lists.check_integrity(str(folder / name), md5):
            return False
    return True


def download_cifar(folder: Path, reader: Any) -> None:
    """Put the files of the official archive into a folder, which may have others.

    An archive that a person has put next to the folder is used, if it is sound.

    Raises:
        OSError, RuntimeError: it cannot be had.

    """
    from torchvision.datasets.utils import download_url

    with private.aside(folder) as aside:
        content = b""
        with suppress(OSError):
            content = regular.read(folder.parent / reader.filename)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != reader.tgz_md5:
            download_url(reader.url, aside, reader.filename, reader.tgz_md5)
            content = regular.read(aside / reader.filename)
        private.make_folder(folder)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if not (member.isreg() and place.parent == PurePosixPath(reader.base_folder)):
                    continue
                source = archive.extractfile(member)
                if source is not None and member.size <= regular.MOST_BYTES:
                    (aside / place.name).write_bytes(source.read())
                    (aside / place.name).replace(folder / place.name)


def require_writable(place: Path) -> None:
    """Make the cache folder that a data set is downloaded to.

    Raises:
        MachineLimit: it cannot be written.

    """
    try:
        private.make_folder(place)
        with TemporaryFile(dir=place):
            return
    except OSError as error:
        raise MachineLimit(
            f"nothing can be downloaded to {place} ({error.strerror or error}): name a folder that "
            f"can be written in XDG_CACHE_HOME, or {POINT} the data set"
        ) from error


def require_ours(folder: Path) -> None:
    """Refuse a downloaded data set that other users may have changed. A checksum next to it proves
    nothing.

    Raises:
        MachineLimit: they may write it, or own it.

    """
    for place in (folder.parent, folder):
        private.close(place)
    with suppress(OSError):
        if reason := private.writer_of(folder) or private.writer_of(folder.parent):
            raise MachineLimit(
                f"{shown(folder)} is not trusted ({shown(reason)}): remove it and it is downloaded "
                f"again, name a folder of your own in XDG_CACHE_HOME, or {POINT} the data set"
            )


@contextmanager
def limit_silence() -> Iterator[None]:
    """Fail if a server sends nothing for SILENCE seconds. Torchvision would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with progress.waiting():
            yield
    finally:
        socket.setdefaulttimeout(before)


def download_tiny_imagenet(place: Path) -> None:
    """Download Tiny-ImageNet's folder to `place` if it is missing. It is complete, or not there at
    all.

    Raises:
        BadData: it cannot be had.

    """
    folder = place / TINY_IMAGENET
    if folder.is_dir():
        require_ours(folder)
        return
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        require_writable(place)
        with limit_silence(), FileLock(place / f".{TINY_IMAGENET}.lock"):
            if folder.is_dir():
                return
            with private.aside(folder) as aside:
                download_and_extract_archive(TINY_URL, aside, md5=TINY_MD5, remove_finished=True)
                (aside / TINY_IMAGENET).chmod(0o700)
                (aside / TINY_IMAGENET).replace(folder)
    except (OSError, RuntimeError, HTTPException, BadZipFile) as error:
        raise Missing(
            f"Tiny-ImageNet is not in {place} and could not be downloaded ({error}): "
            f"{REMEDIES['tiny-imagenet']}"
        ) from error


def download(dataset: str, place: Path) -> Path:
    """Download a data set to `place` if it is missing. Return the folder that a loader reads.

    Raises:
        BadData: it cannot be had.

    """
    if dataset == "tiny-imagenet":
        download_tiny_imagenet(place)
        return place
    folder = place / FOLDERS[dataset]
    if folder.is_dir():
        require_ours(folder)
        return folder
    try:
        require_writable(place)
        with limit_silence(), FileLock(place / f".{folder.name}.lock"):
            if not folder.is_dir():
                with private.aside(folder) as aside:
                    _fetch(dataset, aside)
                    aside.chmod(0o700)
                    aside.replace(folder)
    except (OSError, RuntimeError, HTTPException, BadZipFile, KeyError) as error:
        raise Missing(
            f"{dataset} is not in {place} and could not be downloaded ({error}): "
            f"{REMEDIES[dataset]}"
        ) from error
    return folder


FOLDERS = {
    **{name: f"{name}-files" for name in ("mnist", "fashion-mnist", "svhn")},
    **dict.fromkeys(EMNIST, "emnist-files"),
}
"""Folders of the downloads, in the user's cache. One archive has all splits of EMNIST."""


def _fetch(dataset: str, folder: Path) -> None:
    """Put the files of torchvision's list into a folder, each with the checksum of that list."""
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    if dataset == "svhn":
        for part in ("train", "test"):
            download_url(*_svhn_entry(part, folder))
        return
    if dataset in EMNIST:
        archive = folder / "gzip.zip"
        download_url(datasets.EMNIST.url, folder, archive.name, datasets.EMNIST.md5)
        _extract(archive, folder)
        archive.unlink()
        return
    reader = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[dataset]
    for name, md5 in reader.resources:
        download_url(f"{reader.mirrors[0]}{name}", folder, name, md5)


def _svhn_entry(part: str, folder: Path) -> tuple[str, Path, str, str]:
    from torchvision.datasets import SVHN

    url, name, md5 = SVHN.split_list[part]
    return url, folder, name, md5


def _extract(archive: Path, folder: Path) -> None:
    """Take the compressed files of EMNIST's splits out of their archive.

    Raises:
        KeyError: one is not there.

    """
    from trainers.data.published import idx_files

    with ZipFile(archive) as content:
        for name in (name for dataset in EMNIST for name in idx_files(dataset)):
            member = content.getinfo(f"gzip/{name}.gz")
            if member.file_size <= regular.MOST_BYTES:
                (folder / f"{name}.gz").write_bytes(content.read(member))
