"""Plans of a user's own data: what they print, what they pin, and what they refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import Engine

from fedsweep.errors import DataMissing, PlanError
from fedsweep.execution.data import look_at_data, missing_data
from fedsweep.execution.data_facts import data_facts
from fedsweep.execution.needs import lacking
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading
from tests.acceptance.command import at_once
from tests.array_files import (
    PACKAGE,
    PLAN,
    TRAIN,
    install_shapes,
    made_arrays,
    make_idx,
    save_npz,
)
from tests.image_folders import make_image_folder
from trainers import registry, seq
from trainers.config import DATASET
from trainers.data import datasets
from trainers.data.errors import BadData, Missing
from trainers.data.listing import list_data


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of natural clients, whose file of arrays lies next to it."""
    save_npz(tmp_path / "a.npz")
    file = tmp_path / "own.toml"
    file.write_text(PLAN)
    return file


def looked_at(plan: Path, *changes: str) -> SweepSpec:
    return look_at_data(read_plan(plan, changes), plan.parent)[0]


def test_a_plan_prints_the_clients_of_the_data(sqlite_url: str, plan: Path) -> None:
    """A client without test images is named."""
    save_npz(plan.parent / "a.npz", test_clients=np.array([0, 1] * 6))
    data = str(plan.parent)
    done = at_once("plan", str(plan), "--db", sqlite_url, "--data", data).stdout.splitlines()
    text = "\n".join(done)
    assert "own: 1 new trial" in text
    assert (
        "arrays a.npz: 24 training and 12 test images, 3 classes, cropped and flipped at random"
        in text
    )
    assert "natural: 3 clients with 6 to 12 samples, median 6" in text
    note = "1 client without test images, whose own accuracy is not measured: 3"
    assert f"arrays a.npz: {note}" in text


def test_the_content_of_both_files_is_part_of_the_identity(plan: Path) -> None:
    """Another partition's file, or another content, is another trial."""
    changes = ['partition="file"', 'partition_file="p.csv"']
    ids = []
    for clients in ("ab", "ba", "abc"):
        rows = [f"{i},{clients[i % len(clients)]}" for i in range(TRAIN)]
        (plan.parent / "p.csv").write_text("\n".join(["sample,client", *rows]))
        (trial,) = looked_at(plan, *changes).trials
        assert trial.config.partition_fingerprint is not None
        ids.append(trial.trial_id)
    labels = (np.arange(TRAIN) + 1) % 3
    save_npz(plan.parent / "a.npz", labels=labels)
    (trial,) = looked_at(plan, *changes).trials
    assert trial.config.fingerprint is not None
    assert len({*ids, trial.trial_id}) == 4
    assert looked_at(plan, *changes).trials[0].trial_id == trial.trial_id


def test_a_partition_of_a_file_is_described(plan: Path) -> None:
    """Also of a data set that needs no folder of its own."""
    (plan.parent / "p.csv").write_text(
        "\n".join(["sample,client", *(f"{i},{i % 9 % 2}" for i in range(1437))])
    )
    changes = ['partition="file"', 'partition_file="p.csv"', "dataset=digits"]
    sweep, unseen, stocks = look_at_data(read_plan(plan, changes), plan.parent)
    (facts,) = data_facts(sweep, stocks)
    (clients,) = facts.clients
    assert not unseen
    assert (clients.how, clients.count) == ("file, p.csv", 2)
    assert (clients.least, clients.most) == (639, 798)


REFUSED: list[tuple[list[str], str]] = [
    (["file=b.npz"], r"there is no file .*b\.npz: put it there, or change --data"),
    (["file=a.csv"], r"file = \"a\.csv\" cannot be used: it must be the plain name of a file"),
    (["file=../a.npz"], "it must be the plain name of a file in the data folder"),
    (["file=plain.npz"], "the data have no groups of their own for a natural partition"),
    (["partition=file"], 'partition = "file" needs partition_file'),
    (["partition=file", "partition_file=p.csv"], r"there is no file .*p\.csv"),
    (["partition=iid", "clients=30"], "30 clients are more than the 24 training samples of arr"),
    (["dataset=imagefolder"], 'natural partition of an image folder needs clients_by = "folder"'),
    (["dataset=digits"], "digits has no groups of its own for a natural partition"),
    (["dataset=femnist"], r"holds no train/\*\.json and test/\*\.json of LEAF"),
    (["dataset=shapes"], 'dataset = "shapes" is none of digits, cifar10'),
    (["dataset=huggingface:x"], "there is no folder .*x: put the local copy there"),
    (
        ["file=odd.npz", "model=vit_tiny", "normalizer=ln"],
        "10 pixels on a side, and vit_tiny needs",
    ),
    (["validation=0.01"], "validation = 0.01 holds back no sample of any client"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_data_that_do_not_fit_are_refused_by_the_plan(
    changes: list[str], message: str, plan: Path
) -> None:
    save_npz(plan.parent / "plain.npz", clients=None, test_clients=None)
    np.savez(plan.parent / "odd.npz", **made_arrays(side=10))
    with pytest.raises(PlanError, match=message):
        looked_at(plan, *changes)


def test_a_refused_plan_writes_nothing(tmp_path: Path, plan: Path) -> None:
    """It ends with exit code 2 and one sentence."""
    (plan.parent / "a.npz").write_bytes(b"no arrays")
    db = ("--db", f"sqlite:///{tmp_path}/new.db", "--data", str(plan.parent))
    done = at_once("plan", str(plan), *db, code=2)
    assert "a.npz cannot be read as an .npz file" in done.stderr
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "sample,client\n99,a", "p.csv names 99, which is no training sample: remove it"),
        ("p.csv", "sample,client\n0,a\n0,b", "p.csv names the training sample 0 twice: remove"),
        ("p.csv", "sample,client\n0,a", "p.csv lacks 23 training samples (the first is 1): give"),
        ("p.csv", "sample,client\n0,", "cannot be read as a CSV of sample and client (no client"),
        ("p.json", '{"99": "a"}', "p.json names 99, which is no training sample: remove it"),
        ("p.json", '{"0": "a", "0": "b"}', "p.json names the training sample 0 twice: remove one"),
        ("p.json", '{"0": "a"}', "p.json lacks 23 training samples (the first is 1): give each a"),
        ("p.json", '["a"]', "cannot be read as a JSON object (it must be an object, such as"),
    ],
)
def test_a_partition_file_that_does_not_fit_is_refused_before_anything_is_written(
    name: str, content: str, message: str, tmp_path: Path, plan: Path
) -> None:
    """One sentence, with exit code 2."""
    (plan.parent / name).write_text(content)
    changes = ("--set", 'partition="file"', "--set", f'partition_file="{name}"')
    db = ("--db", f"sqlite:///{tmp_path}/new.db", "--data", str(plan.parent))
    done = at_once("plan", str(plan), *db, *changes, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new.db").exists()


def test_a_partition_file_needs_the_data_folder(plan: Path) -> None:
    """Its content is part of each trial."""
    changes = ['partition="file"', 'partition_file="p.csv"']
    with pytest.raises(PlanError, match="needs the samples of arrays a.npz: give their folder"):
        look_at_data(read_plan(plan, changes), None)
    with pytest.raises(PlanError, match="needs the data folder: point --data"):
        look_at_data(read_plan(plan, [*changes, "dataset=digits"]), None)


def test_known_data_need_no_folder_for_a_plan(plan: Path) -> None:
    """The sizes of published data sets are known. The content is unseen only if it may vary."""
    for dataset, samples in (("mnist", 60_000), ("svhn", 73_257), ("emnist", 112_800)):
        changes = [f"dataset={dataset}", "partition=iid", "clients=10"]
        sweep, unseen, stocks = look_at_data(read_plan(plan, changes), None)
        assert not unseen
        assert stocks[dataset].samples == samples
        assert sweep.trials[0].config.augment is None
    _, unseen, stocks = look_at_data(read_plan(plan, []), None)
    assert unseen
    assert stocks == {}


def test_unequal_classes_of_emnist_are_counted_in_the_folder(plan: Path) -> None:
    """Without a folder, a plan leaves the check of the partition to the worker."""
    changes = ["dataset=emnist-byclass", "partition=iid", "clients=3"]
    sweep, unseen, stocks = look_at_data(read_plan(plan, changes), None)
    assert (unseen, stocks) == (False, {})
    assert sweep.trials[0].config.fingerprint is None
    make_idx(plan.parent, "emnist-byclass")
    _, _, stocks = look_at_data(read_plan(plan, changes), plan.parent)
    assert stocks["emnist-byclass"].classes == (8, 8, 8, *[0] * 59)


def test_emnist_is_its_balanced_split(plan: Path) -> None:
    """Two names make one trial."""
    both = [
        read_plan(plan, [f"dataset={name}", "partition=iid", "clients=3"])
        for name in ("emnist", "emnist-balanced")
    ]
    assert both[0].trials[0].trial_id == both[1].trials[0].trial_id
    assert both[1].trials[0].config.dataset == "emnist"


def test_a_folder_of_mnist_is_counted_and_pinned(plan: Path) -> None:
    make_idx(plan.parent)
    changes = ["dataset=mnist", "partition=iid", "clients=3"]
    sweep, _, stocks = look_at_data(read_plan(plan, changes), plan.parent)
    assert stocks["mnist"].classes == (8, 8, 8, *[0] * 7)
    assert sweep.trials[0].config.fingerprint is not None


def test_data_of_two_files_are_told_apart(plan: Path) -> None:
    """Each has its own fingerprint and its own description."""
    clients = np.arange(TRAIN) % 2
    save_npz(plan.parent / "b.npz", clients=clients, test_clients=None)
    plan.write_text(
        PLAN.replace('file = "a.npz"', "") + '[[grid]]\nfile = ["a.npz", "b.npz"]\nseed = [0, 1]\n'
    )
    sweep, _, stocks = look_at_data(read_plan(plan), plan.parent)
    assert len({trial.config.fingerprint for trial in sweep.trials}) == 2
    assert len({trial.trial_id for trial in sweep.trials}) == 4
    facts = data_facts(sweep, stocks)
    assert [(f.name, f.clients[0].count) for f in facts] == [
        ("arrays a.npz", 3),
        ("arrays b.npz", 2),
    ]


def test_domains_are_described_as_clients(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        make_image_folder(tmp_path / domain, each=8)
    file = tmp_path / "own.toml"
    file.write_text(PLAN.replace('"arrays"', '"imagefolder"').replace('file = "a.npz"', ""))
    sweep, _, stocks = look_at_data(read_plan(file, ["clients_by=folder"]), tmp_path)
    (facts,) = data_facts(sweep, stocks)
    assert facts.name == "imagefolder (clients by folder)"
    assert (facts.training, facts.test, facts.clients[0].count) == (32, 8, 2)


def test_a_machine_without_a_file_passes_over_its_trials_alone(plan: Path) -> None:
    """Trials of another file of the same data set may be here."""
    (plan.parent / "p.csv").write_text("sample,client\n0,a\n")
    need = {"dataset": "arrays", "file": "a.npz", "fingerprint": "f" * 32, "clients_by": None}
    assert missing_data(need, plan.parent) is None
    other = missing_data({**need, "file": "b.npz"}, plan.parent)
    assert isinstance(other, DataMissing)
    assert ("file", "b.npz") in other.lack
    split = {**need, "partition_file": "q.csv", "partition_fingerprint": "e" * 32}
    lacks = missing_data(split, plan.parent)
    assert lacks is not None
    assert "q.csv is not in" in str(lacks)
    assert ("partition_file", "q.csv") in lacks.lack
    assert missing_data({**split, "partition_file": "p.csv"}, plan.parent) is None


def test_the_new_fields_are_stored_with_the_trials(store: Engine, plan: Path) -> None:
    from fedsweep.actions import plan as plans

    plans.add(store, looked_at(plan))
    with reading(store) as connection:
        row = connection.execute(trials.select()).one()
    assert (row.dataset, row.file, row.partition_file) == ("arrays", "a.npz", None)
    assert row.clients_by is None


# Data sets of other packages


def changed(body: str) -> str:
    """Return the package with a `load` of its own."""
    start, _, end = PACKAGE.partition("    import numpy as np\n")
    return start + f"    {body}\n" + end[end.index("\nSHAPES") :]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Install a package that offers the data set `shapes`, with this text."""

    def install(text: str) -> Path:
        place = install_shapes(tmp_path / "site", text)
        if str(place) not in sys.path:
            monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, "shapes_data", raising=False)
        registry._names.cache_clear()
        return place

    registry.loaded_hash.cache_clear()
    yield install
    registry._names.cache_clear()
    registry.loaded_hash.cache_clear()
    sys.modules.pop("shapes_data", None)


def test_a_data_set_of_another_package_is_planned_and_loaded(
    offer: Callable[[str], Path], plan: Path
) -> None:
    """Its package, its code and its facts are part of the identity. It needs no folder.

    A worker that has imported the package goes on with that code, and with its trials.
    """
    offer(PACKAGE)
    changes = ["dataset=shapes"]
    sweep, unseen, stocks = look_at_data(read_plan(plan, changes), None)
    (trial,) = sweep.trials
    assert not unseen
    (facts,) = data_facts(sweep, stocks)
    assert (facts.training, facts.test, facts.classes) == (12, 6, 3)
    assert (facts.clients[0].count, facts.clients[0].least) == (2, 6)
    data = datasets.load("shapes", fingerprint=trial.config.fingerprint)
    assert data.groups == ("a", "b")
    offer(PACKAGE + "# another release\n")
    assert datasets.load("shapes", fingerprint=trial.config.fingerprint).groups == ("a", "b")
    registry.loaded_hash.cache_clear()  # a new worker
    with pytest.raises(Missing, match="is not the one that the trial was planned with"):
        datasets.load("shapes", fingerprint=trial.config.fingerprint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ImportError('no gdal')", r"cannot be imported \(no gdal\): mend the installation"),
        ("import sys; sys.exit(3)", r"cannot be imported \(3\): mend the installation"),
        ("SHAPES = 3", "is no OfferedDataset, but int"),
        (PACKAGE.replace("(4, 4, 4)", "(12,)"), "names fewer than two classes"),
        (PACKAGE.replace("(4, 4, 4)", "(12, 0)"), "names a class or a client without training"),
        (PACKAGE.replace("(4, 4, 4)", "12"), "gives facts that are no whole numbers"),
        (PACKAGE.replace("(4, 4, 4)", "(4, 4, 4.0)"), "gives facts that are no whole numbers"),
        (PACKAGE.replace("test=6", "test=0"), "has no test images, or a client with fewer"),
        (PACKAGE.replace("tested=(3, 3)", "tested=(7, -1)"), "has no test images, or a client"),
        (PACKAGE.replace("tested=(3, 3)", "tested=(3, 2)"), "has other numbers of test images by"),
        (PACKAGE.replace("tested=(3, 3)", "tested=(6,)"), "has other numbers of test images by"),
        (PACKAGE.replace("(6, 6)", "(12, 0)"), "names a class or a client without training"),
        (PACKAGE.replace("(6, 6)", "(6, 7)"), "other numbers of images by client than by class"),
    ],
)
def test_offers_that_cannot_be_used_are_refused_by_the_plan(
    text: str, message: str, offer: Callable[[str], Path], plan: Path
) -> None:
    offer(text)
    with pytest.raises(PlanError, match=message):
        look_at_data(read_plan(plan, ["dataset=shapes"]), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PACKAGE.replace("(4, 4, 4)", "(5, 4, 3)"),
            "has other images by class or client than its pack",
        ),
        (PACKAGE.replace("test=6, ", "test=5, ").replace("(3, 3)", "(3, 2)"), "has other images"),
        (PACKAGE.replace("tested=(3, 3)", "tested=(4, 2)"), "has other images by class or client"),
        (changed("return 3"), "loads a int, not a Dataset: correct its package"),
        (changed("return {}['a']"), r"cannot be loaded .KeyError: 'a'.: correct its package, or"),
        (changed("1 / 0"), "cannot be loaded .ZeroDivisionError: division by zero.: correct its"),
        (PACKAGE.replace("8, 8, 1", "8, 6, 1"), "has images that are not square, or of more"),
        (PACKAGE.replace("8, 8, 1", "3, 3, 1"), "has images with fewer than 4 pixels on a side"),
        (PACKAGE.replace("8, 8, 1", "8, 8, 2"), "has images with 2 channels, which must be 1 or"),
        (PACKAGE.replace("astype(np.uint8)", "astype(float)"), "has images that are not uint8"),
        (PACKAGE.replace("labels = np", "labels = 1.0 * np"), "has labels that are not int64, one"),
        (PACKAGE.replace("% 3", "% 3 - 1"), "has labels that are not in 0 to 2: correct its pack"),
        (PACKAGE.replace('("a", "b")', '("a",)'), "has images of clients that its groups do not"),
        (PACKAGE.replace("np.arange(6) %", "np.arange(5) %"), "has clients that are not whole num"),
        (PACKAGE.replace("std=(60.0,)", "std=(0.0,)"), "has no mean and positive standard deviat"),
    ],
)
def test_a_data_set_that_breaks_its_promise_is_refused(
    text: str, message: str, offer: Callable[[str], Path]
) -> None:
    """A worker finds that out, and says which package to correct."""
    offer(text)
    with pytest.raises(BadData, match=f"the data set shapes {message}"):
        datasets.load("shapes")


def test_images_of_another_package_that_do_not_fit_a_model_are_refused(
    offer: Callable[[str], Path], plan: Path
) -> None:
    """A worker finds that out, because a plan does not load them."""
    offer(PACKAGE.replace("8, 8, 1", "10, 10, 1"))
    changes = ["dataset=shapes", "model=vit_tiny", "normalizer=ln"]
    (trial,) = looked_at(plan, *changes).trials
    with pytest.raises(
        ValueError, match="shapes have 10 pixels on a side, and vit_tiny needs a mu"
    ):
        seq.load(trial.config, None)


def test_a_file_that_a_data_set_of_another_package_lacks_is_missing(
    offer: Callable[[str], Path], tmp_path: Path
) -> None:
    """Another machine may have it. A module that is missing is the machine's lack too."""
    offer(changed("open(root / 'images.bin')"))
    with pytest.raises(Missing, match="images.bin'.: put its files there, or change --data"):
        datasets.load("shapes", tmp_path)
    offer(changed("import no_such_module"))
    with pytest.raises(ImportError, match="no_such_module"):
        datasets.load("shapes", tmp_path)


def test_a_client_of_another_package_without_test_images_is_counted_out(
    offer: Callable[[str], Path], plan: Path
) -> None:
    """The plan names it by its number, because only the loaded data have its name."""
    offer(PACKAGE.replace("tested=(3, 3)", "tested=(6, 0)"))
    lines: list[str] = []
    look_at_data(read_plan(plan, ["dataset=shapes"]), None, report=lines.append)
    note = "1 client without test images, whose own accuracy is not measured: 1"
    assert lines == [f"shapes: {note}"]


def test_a_machine_without_the_package_says_so(offer: Callable[[str], Path]) -> None:
    """Its trials are passed over."""
    need: dict[str, Any] = {
        "dataset": "shapes",
        "fingerprint": "f" * 32,
        "model": "cnn",
        "normalizer": "gn",
        "algorithm": "fedavg",
        "code": None,
        "file": None,
        "clients_by": None,
        "partition_file": None,
        "partition_fingerprint": None,
    }
    found = [str(lack) for lack in lacking([need], None, "cpu")]
    assert found[0] == "data set shapes is offered by no package: install its own"
    offer(PACKAGE)
    assert lacking([need], None, "cpu") == []
    assert DATASET.names()[-1] == "shapes"
    assert list_data(need, None).stock().samples == 12
