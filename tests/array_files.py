"""Small data sets in files of arrays, and in the layouts of published data sets."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, TEST = 24, 12
"""Training and test images."""


def made_arrays(
    *, side: int = 8, channels: int = 1, classes: int = 3, clients: int = 4
) -> dict[str, NDArray[Any]]:
    """Images as bright as their class, which comes in turn. Client 0 has half of the images."""
    draw = np.random.RandomState(0)
    arrays: dict[str, NDArray[Any]] = {}
    for prefix, count in (("", TRAIN), ("test_", TEST)):
        labels = np.arange(count) % classes
        noise = draw.randint(0, 40, (count, side, side, channels))
        images = noise + (labels * 200 // classes)[:, None, None, None]
        arrays[f"{prefix}images"] = images.astype(np.uint8)
        arrays[f"{prefix}labels"] = labels
        arrays[f"{prefix}clients"] = np.where(np.arange(count) % 2, np.arange(count) % clients, 0)
    return arrays


def save_npz(file: Path, **changes: NDArray[Any] | None) -> Path:
    """Save `made_arrays` with some arrays replaced, added, or left out if they are None."""
    arrays = {**made_arrays(), **changes}
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(file, **kept)
    return file


def save_idx(file: Path, array: NDArray[np.uint8], *, compressed: bool = False) -> None:
    """Write an array in the format of MNIST."""
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.tobytes()
    if compressed:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)


def make_idx(root: Path, dataset: str = "mnist", *, compressed: bool = False) -> Path:
    """Write a data set in MNIST's format, in torchvision's folder. Return the folder of files."""
    from trainers.data.published import FIRST_LABELS, IDX_FOLDERS, idx_files

    place = root / IDX_FOLDERS[dataset] / "raw"
    place.mkdir(parents=True, exist_ok=True)
    arrays = made_arrays()
    names = ("images", "labels", "test_images", "test_labels")
    for name, file in zip(names, idx_files(dataset), strict=True):
        array = arrays[name].astype(np.uint8)
        if "labels" in name:
            array += FIRST_LABELS.get(dataset, 0)
        save_idx(place / file, array[..., 0] if array.ndim == 4 else array, compressed=compressed)
    return place


def make_svhn(root: Path) -> Path:
    """Write the two files of SVHN, with the label 10 for 0."""
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    arrays = made_arrays(channels=3)
    for prefix, part in (("", "train"), ("test_", "test")):
        labels = arrays[f"{prefix}labels"]
        savemat(
            root / f"{part}_32x32.mat",
            {
                "X": arrays[f"{prefix}images"].transpose(1, 2, 3, 0),
                "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8),
            },
        )
    return root


def leaf_pixels(writer: int, i: int) -> NDArray[np.uint8]:
    """Return an image of a writer."""
    return np.random.RandomState(10 * writer + i).randint(0, 256, (28, 28)).astype(np.uint8)


def make_leaf(root: Path, *, test_writers: tuple[str, ...] | None = None) -> Path:
    """Write FEMNIST as LEAF does: three writers in two files, and their test images."""
    writers = {"f0002_01": 3, "f0001_41": 2, "f0000_14": 4}
    parts = {
        "train/a.json": {"f0002_01": 3, "f0001_41": 2},
        "train/b.json": {"f0000_14": 4},
        "test/a.json": dict.fromkeys(test_writers or writers, 2),
    }
    for place, users in parts.items():
        file = root / "femnist" / "data" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        data = {
            name: {
                "x": [(leaf_pixels(k, i) / 255).ravel().tolist() for i in range(count)],
                "y": [(7 * i + k) % 62 for i in range(count)],
            }
            for k, (name, count) in enumerate(users.items())
        }
        content = {"users": list(users), "num_samples": list(users.values()), "user_data": data}
        file.write_text(json.dumps(content))
    return root


def hub_rows(count: int, *, domains: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Return the columns of a table as the library `datasets` stores images."""
    from PIL import Image

    arrays = made_arrays()
    images = []
    for i in range(count):
        content = io.BytesIO()
        Image.fromarray(arrays["images"][i, ..., 0]).save(content, "PNG")
        images.append({"bytes": content.getvalue(), "path": f"{i}.png"})
    rows: dict[str, list[Any]] = {"image": images, "label": [i % 3 for i in range(count)]}
    if domains:
        rows["domain"] = [domains[i % len(domains)] for i in range(count)]
    return rows


def make_parquet(folder: Path, *, domains: tuple[str, ...] = ()) -> Path:
    """Write a data set as a copy of a repository of the hub holds it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 12), ("test", 6)):
        table = pa.table(hub_rows(count, domains=domains))
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def make_saved_to_disk(folder: Path) -> Path:
    """Write a data set as `DatasetDict.save_to_disk` does: streams of Arrow."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, count in (("train", 12), ("test", 6)):
        table = pa.table(hub_rows(count))
        (folder / split).mkdir()
        file = folder / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return folder


PLAN = """name = "own"
[protocol]
dataset = "arrays"
file = "a.npz"
model = "cnn"
normalizer = "gn"
partition = "natural"
rounds = 2
local_steps = 1
batch_size = 4
lr = 0.05
client_accuracy = true
"""
"""A plan of the natural clients of a file of arrays."""

PACKAGE = """
from trainers.data.offered import OfferedDataset

def load(root):
    import numpy as np
    from trainers.data.dataset import assemble

    labels = np.arange(12) % 3
    images = np.zeros((12, 8, 8, 1), np.uint8) + (80 * labels)[:, None, None, None].astype(np.uint8)
    return assemble(
        (images, labels), (images[:6], labels[:6]), classes=3, mean=(80.0,), std=(60.0,),
        groups=("a", "b"), members=np.arange(12) % 2, test_members=np.arange(6) % 2,
    )

SHAPES = OfferedDataset(load, classes=(4, 4, 4), test=6, clients=(6, 6), tested=(3, 3))
"""
"""A module that offers a data set of two natural clients."""


def install_shapes(place: Path, text: str = PACKAGE) -> Path:
    """Install a package that offers the data set `shapes`, as pip would."""
    about = place / "shapes_data-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (place / "shapes_data.py").write_text(text)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-data\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedsweep.datasets]\nshapes = shapes_data:SHAPES\n")
    return place
