"""Facts about the data sets that fedsweep knows. `trainers.own_models` has those of models."""

from __future__ import annotations

CLASS_SAMPLES = {
    "digits": (142, 146, 142, 146, 145, 145, 145, 143, 139, 144),
    "cifar10": (5000,) * 10,
    "cifar100": (500,) * 100,
}
"""Training samples per class of the data sets whose content never changes. Others are counted on
disk.
"""


TEST_SAMPLES = {"digits": 360, "cifar10": 10_000, "cifar100": 10_000, "tiny-imagenet": 10_000}
"""Test images of the data sets whose content never changes."""


TRAINING_SAMPLES = {dataset: sum(classes) for dataset, classes in CLASS_SAMPLES.items()}


ON_DISK = frozenset({"imagefolder", "tiny-imagenet", "cityscapes", "camvid"})
"""Data sets that are the files of a folder. A fingerprint identifies their content."""


DOWNLOADED = frozenset({"tiny-imagenet"})
"""Those that are downloaded if no folder is named. Their content is always the same."""


SEGMENTATION = frozenset({"cityscapes", "camvid"})
"""Data sets with a class for each pixel. Their images come in groups: cities, drives."""
