"""Facts about the data sets that fedsweep knows. `trainers.own_models` has those of models."""

from __future__ import annotations

from dataclasses import dataclass

CLASS_SAMPLES = {
    "digits": (142, 146, 142, 146, 145, 145, 145, 143, 139, 144),
    "cifar10": (5000,) * 10,
    "cifar100": (500,) * 100,
}
"""Training samples per class of the data sets whose content never changes. Others are counted on
disk.
"""


EMNIST = {
    "emnist": "balanced",
    "emnist-byclass": "byclass",
    "emnist-bymerge": "bymerge",
    "emnist-digits": "digits",
    "emnist-letters": "letters",
    "emnist-mnist": "mnist",
}
"""The data sets of EMNIST (Cohen et al. 2017), each with the name of its split in the files."""


TEST_SAMPLES = {
    "digits": 360,
    "cifar10": 10_000,
    "cifar100": 10_000,
    "tiny-imagenet": 10_000,
    "mnist": 10_000,
    "fashion-mnist": 10_000,
    "emnist": 18_800,
    "emnist-digits": 40_000,
    "emnist-letters": 20_800,
    "emnist-mnist": 10_000,
    "svhn": 26_032,
}
"""Test images of the data sets whose content never changes."""


DOWNLOADED_CLASSES = {
    "tiny-imagenet": (500,) * 200,
    "mnist": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "fashion-mnist": (6000,) * 10,
    "emnist": (2400,) * 47,
    "emnist-digits": (24_000,) * 10,
    "emnist-letters": (4800,) * 26,
    "emnist-mnist": (6000,) * 10,
    "svhn": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
}
"""Training samples of each class of data sets that are downloaded if no folder is named."""


TRAINING_SAMPLES = {dataset: sum(classes) for dataset, classes in CLASS_SAMPLES.items()}


HUGGING_FACE = "huggingface:"
"""The beginning of the name of a local copy of a data set of the Hugging Face hub. Its folder
follows."""


@dataclass(frozen=True)
class OwnDataset:
    """One of our own data sets."""

    name: str
    files: str
    """The files that it is read from, in words."""
    clients: str = "–"
    """The origin of its natural clients, in words; "–" if it has none."""


DOWNLOADABLE = "the official files, in torchvision's folders; downloaded if no folder is named"

ROAD_SCENES = "the official folders (`pip install 'fedsweep[segmentation]'`)"

OWN = (
    OwnDataset("digits", "those of scikit-learn"),
    OwnDataset("cifar10", "the official batches; downloaded if missing"),
    OwnDataset("cifar100", "the official batches; downloaded if missing"),
    OwnDataset("tiny-imagenet", DOWNLOADABLE),
    OwnDataset("cityscapes", ROAD_SCENES, "a city"),
    OwnDataset("camvid", ROAD_SCENES, "a drive"),
    OwnDataset(
        "imagefolder",
        "`train/<class>/` and `test/<class>/`: the data folder is the folder above them",
        "by `clients_by`",
    ),
    OwnDataset("mnist", DOWNLOADABLE),
    OwnDataset("fashion-mnist", DOWNLOADABLE),
    *(OwnDataset(name, DOWNLOADABLE) for name in EMNIST),
    OwnDataset("femnist", "LEAF's `{train,test}/*.json`", "a writer"),
    OwnDataset("svhn", DOWNLOADABLE),
    OwnDataset(
        "arrays",
        '`file = "NAME.npz"` or `"NAME.safetensors"` in the data folder',
        "the array `clients`",
    ),
)
"""All of them, in the order in which messages name them."""

OF_HUGGING_FACE = OwnDataset(
    HUGGING_FACE,
    "a local copy in the folder of that name: Parquet, or `save_to_disk` (`pip install "
    "'fedsweep[hub]'`)",
    "a column `client`, `client_id`, `writer_id` or `domain`",
)
"""The facts that all local copies of the Hugging Face hub have in common."""

DATASETS = tuple(own.name for own in OWN)
"""The names of our own data sets."""


OTHER_NAMES = {"emnist-balanced": "emnist"}
"""Further names of our own data sets. A trial has the second."""


ARRAYS = {
    "images": "[N, H, W], [N, H, W, 1] or [N, H, W, 3], uint8, square",
    "labels": "[N], the class of each image",
    "test_images": "as `images`",
    "test_labels": "as `labels`",
    "clients": "[N], the client of each image, as a number or text; optional",
    "test_clients": "the client of each test image; optional",
}
"""The arrays in the file of `arrays`, with their shapes. No file is unpickled."""


def is_on_disk(dataset: str) -> bool:
    """Return if a fingerprint identifies a data set's content, because it may change.

    These are the files of a folder, and the data sets of other packages.
    """
    return dataset not in CLASS_SAMPLES


DOWNLOADED = frozenset({*DOWNLOADED_CLASSES, *EMNIST})
"""Those that are downloaded if no folder is named. Their content is always the same. The classes of
`emnist-byclass` and `emnist-bymerge` have unequal sizes, which only their files tell.
"""


CHARACTERS = {
    "mnist": 10,
    "emnist": 47,
    "emnist-byclass": 62,
    "emnist-bymerge": 47,
    "emnist-digits": 10,
    "emnist-letters": 26,
    "emnist-mnist": 10,
    "femnist": 62,
    "svhn": 10,
    "fashion-mnist": 10,
}
"""Classes of the data sets of characters, and of the clothes in their format. A class may lack
training images in a part of one."""


NEVER_AUGMENTED = frozenset({"digits", *CHARACTERS})
"""Data sets that are neither cropped nor flipped: a mirrored character is another one."""


SEGMENTATION = frozenset({"cityscapes", "camvid"})
"""Data sets with a class for each pixel. Their images come in groups: cities, drives."""


WITHOUT_CLIENTS = frozenset(CLASS_SAMPLES) | DOWNLOADED
"""Data sets that have no clients of their own."""
