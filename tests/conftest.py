"""Fixtures of all tests: stores on SQLite and on a real Postgres, plans, and images."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import uuid
import zipfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from fedsweep.store.schema import open_store
from tests import postgres, tiers
from tests.builders import REPOSITORY, TINY
from tests.image_folders import (
    make_camvid,
    make_cityscapes,
    make_image_folder,
    make_tiny_imagenet,
)
from tests.shared import made_once, run_folder

NAMED_SERVER = os.environ.get("FEDSWEEP_TEST_POSTGRES")
"""The URL of a Postgres to test on. By default, a run starts its own."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it runs in the background ignore Ctrl-C. Tests send it to their processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHAOS = REPOSITORY / "tests" / "chaos"
DATABASES = {"sqlite", "postgres", "sqlite-postgres", "postgres-sqlite"}


@pytest.hookimpl(tryfirst=True)  # before any is left out by its marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the variants of a test that are slow, and the tests left out of `make fast`.

    Chaos comes first. It takes minutes, for which all but one process of pytest-xdist would
    otherwise wait at the end.
    """
    items.sort(key=lambda item: not item.path.is_relative_to(CHAOS))
    tiered = {"process", "large"} & set(re.findall(r"\w+", config.option.markexpr))
    variants: Counter[str] = Counter()
    for item in items:
        quick = item.get_closest_marker("quick_on")
        called = getattr(item, "callspec", None)
        values = called.params.values() if called is not None else ()
        on = {value for value in values if isinstance(value, str)} & DATABASES
        if quick and on - set(quick.args):
            item.add_marker("slow")
        sampled = item.get_closest_marker("one_in")
        if sampled and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            if variants[test] % sampled.args[0]:
                item.add_marker("slow")
            variants[test] += 1
        if tiered and isinstance(item, pytest.Function):
            for mark in tiers.marks(item):
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the tests are imported. Nearly all of their objects stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Leave what the collection has made out of every garbage collection.

    A collection looks at all objects, and a million of them live as long as the tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep decoded and downloaded data in a temporary folder, also of programs that tests start.

    So are this user's own files: approvals, and snapshots of stores on Postgres. The cache of pip
    stays in use.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("PIP_CACHE_DIR", str(home / "pip"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    for name in ("FEDSWEEP_CACHE", "FEDSWEEP_ARTIFACTS"):
        os.environ.pop(name, None)


@pytest.fixture
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files of stores on Postgres, such as weights, in the folder of this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def memory_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use fsspec's file system in memory as a bucket. It is empty before and after a test."""
    from fsspec.implementations.memory import MemoryFileSystem

    from fedsweep.store import places

    monkeypatch.setattr(places, "BUCKETS", places.BUCKETS | {"memory"})
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Postgres whose user may create databases: a named server, or one of this run."""
    if NAMED_SERVER:
        yield NAMED_SERVER
        return
    with postgres.shared_server(run_folder(tmp_path_factory)) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of the database with our schema that fresh stores are copied from."""
    if not NAMED_SERVER:
        yield postgres.TEMPLATE
        return
    name = f"template_{uuid.uuid4().hex[:12]}"
    postgres.make_template(postgres_server, name)
    yield name
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a Postgres database without tables."""
    with postgres.database(postgres_server, postgres.EMPTY) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The URL of a fresh store on Postgres."""
    with postgres.database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SQLite file with our schema that fresh stores are copied from."""
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
def walk_in_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and all that one test starts, use the engine of `tests.walk`."""
    from tests import walk

    walk.install(monkeypatch)


@pytest.fixture(scope="module")
def alone(walk: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    """The rounds of the trials of `trunks.PLAN`, each walked from round 1."""
    from tests import trunks

    folder = made_once(tmp_path_factory, "alone", trunks.train_alone)
    store = open_store(f"sqlite:///{folder}/alone.db")
    curves = trunks.measured(store)
    store.dispose()
    return curves


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The plan file of a sweep of six tiny trials."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real images' archives."""
    named = os.environ.get("FEDSWEEP_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "cifar10-test.zip").is_file():
        pytest.skip(f"no real images in {folder}: name their folder in FEDSWEEP_TEST_DATA")
    return folder


@pytest.fixture
def some_cifar10(real_data: Path, tmp_path: Path) -> Path:
    """An image folder of real CIFAR-10: 40 training and 10 test images of each class."""
    root = tmp_path / "cifar10"
    for archive, part, each in (("cifar10-train-1", "train", 40), ("cifar10-test", "test", 10)):
        taken: dict[str, int] = {}
        with zipfile.ZipFile(real_data / f"{archive}.zip") as images:
            for name in sorted(images.namelist()):
                place = Path(name)
                if place.suffix != ".png" or place.parts[-3] != part:
                    continue
                label = place.parts[-2]
                if taken.setdefault(label, 0) < each:
                    taken[label] += 1
                    target = root / part / label / place.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(images.read(name))
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A small image folder of two classes, in two sizes and modes."""
    return make_image_folder(tmp_path / "images")


@pytest.fixture(scope="session")
def real_camvid(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of CamVid: 31 training and 20 test images."""
    root = tmp_path_factory.mktemp("camvid")
    with zipfile.ZipFile(real_data / "camvid-small.zip") as images:
        images.extractall(root)
    return root


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """A tiny tree in the official layout of Tiny-ImageNet."""
    return make_tiny_imagenet(tmp_path / "tiny")


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A tiny tree in the layout of CamVid."""
    return make_camvid(tmp_path / "camvid")


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """A tiny tree in the official layout of Cityscapes."""
    return make_cityscapes(tmp_path / "cityscapes")
