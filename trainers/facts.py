"""Facts about the models and data sets that fedsweep knows."""

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


CHANNELS = {
    "cnn": (32, 64),
    "resnet20": (16, 32, 64),
    "resnet18": (64, 128, 256, 512),
    "deeplabv3plus": (16, 24, 32, 48, 64, 96, 144, 160, 192, 256, 320, 384, 576, 960, 1280),
}
"""Channels that a normalizer meets in each model."""


STATE_ELEMENTS = {
    "cnn": 67_000,
    "resnet20": 274_000,
    "resnet18": 11_200_000,
    "deeplabv3plus": 4_420_000,
}
"""Elements of a model's state, about: to tell a plan's disk without building the model."""
