"""Local copies of data sets of the Hugging Face hub: Parquet files, or a `save_to_disk` folder.

The files are read by pyarrow. Nothing is downloaded, and no code of a data set is run. A plan reads
the labels too, so this file imports no torch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.arrays import Arrays, Stored, opened, sound
from trainers.data.content import check_room
from trainers.data.errors import BadData, Missing, listed, reading, shown
from trainers.facts import HUGGING_FACE
from trainers.progress import progress

IMAGE = ("image", "img")
LABEL = ("label", "labels", "character")
CLIENT = ("client", "client_id", "writer_id", "domain")
"""Names of the columns that are read, the first that is there."""

SPLITS = ("train", "test")

GRAY = frozenset({"1", "L"})
"""Pillow's modes of images of one channel."""

NEEDS_PYARROW = "a data set of the Hugging Face hub needs pyarrow: pip install 'fedsweep[hub]'"


def hugging_face(dataset: str, root: Path, size: int) -> Stored:
    """List the local copy of a data set, in the folder of its name in the data folder.

    Raises:
        Missing: there is no such folder, it lacks a split, or pyarrow is not installed.

    """
    if find_spec("pyarrow") is None:
        raise Missing(NEEDS_PYARROW)
    folder = root / dataset.removeprefix(HUGGING_FACE)
    if not folder.is_dir():
        raise Missing(f"there is no folder {shown(folder)}: put the local copy there")
    splits = [_files(folder, split) for split in SPLITS]
    for split, files in zip(SPLITS, splits, strict=True):
        if not files:
            raise Missing(
                f"{shown(folder)} has no {split} split: it needs {split}-*.parquet (or in data/), "
                f"or the folder {split} of save_to_disk"
            )
    paths = tuple(path for files in splits for path in files)
    read, look = (partial(_read, folder, splits, size, decode=d) for d in (True, False))
    return Stored(folder, paths, read, look, size=size)


def _files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split: one format, in alphabetical order."""
    for place in (folder, folder / "data"):
        if files := sorted({*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.parquet")}):
            return files
    return sorted((folder / split).glob("*.arrow"))


def _read(folder: Path, splits: Sequence[Sequence[Path]], size: int, *, decode: bool) -> Arrays:
    named: dict[str, NDArray[Any]] = {}
    images = []
    for prefix, files in zip(("", "test_"), splits, strict=True):
        content, labels, clients = _columns(files, images=decode)
        named[f"{prefix}labels"] = labels
        if clients is not None:
            named[f"{prefix}clients"] = clients
        images.append(content)
    counts = [len(named[name]) for name in ("labels", "test_labels")]
    if not decode:
        shapes = [np.broadcast_to(np.uint8(0), (n, size, size, 3)) for n in counts]
    else:
        check_room(folder, sum(counts), size, size, 3)
        decoded = [_decoded(folder, part, size) for part in images]
        gray = all(is_gray for _, is_gray in decoded)
        shapes = [part[..., :1] if gray else part for part, _ in decoded]
    named["images"], named["test_images"] = shapes
    return sound(folder, named, statistics=None)


def _columns(
    files: Sequence[Path], *, images: bool
) -> tuple[list[bytes], NDArray[Any], NDArray[Any] | None]:
    """Return the encoded images, the labels and the clients of a split."""
    content: list[bytes] = []
    labels: list[Any] = []
    clients: list[Any] = []
    for path in files:
        with reading(path, "a table of images and labels"):
            for table in _tables(path):
                names = table.column_names
                labels += _column(path, table, _name(path, names, LABEL)).to_pylist()
                if (client := next((name for name in CLIENT if name in names), None)) is not None:
                    clients += _column(path, table, client).to_pylist()
                if images:
                    content += _bytes(path, table.column(_name(path, names, IMAGE)))
                progress.step()
    if clients and len(clients) != len(labels):
        raise BadData(f"not every file of {shown(files[0].parent)} has the clients: add the column")
    return content, np.array(labels), np.array(clients) if clients else None


def _tables(path: Path) -> Iterator[Any]:
    """Yield the tables of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(path) as file:
        if path.suffix == ".parquet":
            yield pq.read_table(file)
        else:
            with pa.ipc.open_stream(file) as stream:
                yield stream.read_all()


def _name(path: Path, names: Sequence[str], known: Sequence[str]) -> str:
    """Return the first of the known columns that a table has."""
    for name in known:
        if name in names:
            return name
    raise BadData(
        f"{shown(path)} has the columns {listed(map(shown, names))}, and none of "
        f"{', '.join(known)}: rename the right one"
    )


def _column(path: Path, table: Any, name: str) -> Any:
    """Return a column without empty entries."""
    column = table.column(name)
    if column.null_count:
        raise BadData(f"{shown(path)} has {column.null_count} rows without {name}: remove them")
    return column


def _bytes(path: Path, column: Any) -> Iterator[bytes]:
    """Yield the encoded images of a column, as the library `datasets` stores them."""
    for i, value in enumerate(column.to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise BadData(
                f"row {i} of {shown(path)} holds no image, but {type(content).__name__}: save the "
                "images in the table, as Dataset.save_to_disk and push_to_hub do"
            )
        yield content


def _decoded(folder: Path, content: Sequence[bytes], size: int) -> tuple[NDArray[np.uint8], bool]:
    """Return images [N, size, size, 3], and whether all of them are gray."""
    from PIL import Image

    from trainers.data.decode import Depth, to_rgb
    from trainers.data.images import FORMATS, MOST_SCANS, check_image, check_size

    images = np.empty((len(content), size, size, 3), dtype=np.uint8)
    gray, depth = True, Depth()
    for i, encoded in enumerate(content):
        place = folder / f"image {i}"
        with reading(place, "an image"), Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            check_size(image, place)
            check_image(image, place)
            if encoded.count(b"\xff\xda") > MOST_SCANS:
                raise ValueError("it has too many scans")
            gray &= image.mode in GRAY
            images[i] = to_rgb(image, place, (size, size), depth)
        progress.step()
    depth.lines(folder)
    return images, gray
