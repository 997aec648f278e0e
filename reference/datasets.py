"""The page on data sets: files, clients of their own, decoding of images."""

from __future__ import annotations

from reference.markdown import code, document, prose, table
from trainers.data.content import MOST_PIXELS, SUFFIXES
from trainers.data.images import DECODED, FORMATS
from trainers.facts import (
    ARRAYS,
    CHARACTERS,
    CLASS_SAMPLES,
    DOWNLOADED_CLASSES,
    HUGGING_FACE,
    NEVER_AUGMENTED,
    OF_HUGGING_FACE,
    OTHER_NAMES,
    OWN,
    SEGMENTATION,
    TEST_SAMPLES,
    OwnDataset,
)
from trainers.regular import MOST_BYTES


def page() -> str:
    """Return the page."""
    others = "; ".join(
        f"{code(name)} is another name of {code(own)}" for name, own in OTHER_NAMES.items()
    )
    return document(
        "Data sets",
        "A plan names a data set by the key [`dataset`](plan-file.md#dataset). Its files are in "
        "the folder `--data`, or [`FEDSWEEP_DATA`](environment.md). Give it to `plan` and to "
        "`work`. Another package can [add a data set](../how-to/add-a-data-set.md).",
        table(
            ["data set", "files", "natural clients", "images", "classes", "cropped and flipped"],
            [
                *(_row(own, own.name) for own in OWN),
                _row(OF_HUGGING_FACE, f"{HUGGING_FACE}NAME"),
            ],
        ),
        f"{others}. Images are training and test images. – means that the files decide.",
        "`plan` makes the content of all files part of the trials' identity, except for `digits`, "
        "`cifar10` and `cifar100`, whose content never changes. Nothing is downloaded from the "
        "Hugging Face hub, and no code of a data set is run.",
        "## Arrays",
        table(["array", "contents"], ([code(name), text] for name, text in ARRAYS.items())),
        "The file is `.npz` or `.safetensors`. No file is unpickled.",
        "## Image files",
        f"- Images end in {', '.join(map(code, sorted(SUFFIXES)))}, in lower or upper case. Other "
        "files are ignored and counted. In a class folder, images in deeper folders count too.\n"
        "- A name is hidden if it begins with a dot, or is `__MACOSX`, `@eaDir`, `Thumbs.db` or "
        "`desktop.ini`.\n"
        "- Links are followed, unless they are broken or lead to a folder above them.\n"
        "- An image folder with fewer than two classes is refused.\n"
        f"- Only {', '.join(FORMATS)} are decoded, chosen by their content.\n"
        f"- A file has at most {MOST_BYTES:,} bytes, and an image at most {MOST_PIXELS:,} pixels. "
        "Only regular files are read.\n"
        "- Images are decoded once, into arrays that all slots map into memory. These are in "
        "[`FEDSWEEP_CACHE`](environment.md), and are checked each time they are opened.",
        "Every image becomes 8-bit RGB:",
        table(["image", "decoding"], ([kind, prose(text)] for kind, text in DECODED.items())),
        sources=("trainers/facts.py", "trainers/data/images.py"),
    )


def _row(own: OwnDataset, name: str) -> list[str]:
    counts = CLASS_SAMPLES.get(own.name) or DOWNLOADED_CLASSES.get(own.name)
    test = TEST_SAMPLES.get(own.name)
    images = f"{sum(counts):,} + {test:,}" if counts and test else "–"
    classes = len(counts) if counts else CHARACTERS.get(own.name)
    never = own.name in NEVER_AUGMENTED
    return [
        code(name),
        own.files,
        own.clients,
        images,
        "by pixel" if own.name in SEGMENTATION else str(classes or "–"),
        "never" if never else "if `augment`",
    ]
