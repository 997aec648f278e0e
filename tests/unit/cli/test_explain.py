"""The silent decisions of a plan, as `fedsweep plan` prints them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fedsweep.actions.explain import UNNAMED, explain
from fedsweep.execution.data import look_at_data
from fedsweep.execution.data_facts import MOST_PARTITIONS, data_facts
from fedsweep.plans import Trials, read_plan
from tests.acceptance.command import at_once
from tests.builders import TINY
from trainers.config import TrainConfig
from trainers.identity import OUTSIDE_IDENTITY


def test_a_plan_prints_its_data_its_clients_and_its_defaults(sqlite_url: str, tiny: Path) -> None:
    """Values that the plan gives are not repeated. Those that change no numbers are left out."""
    lines = at_once("plan", str(tiny), "--db", sqlite_url).stdout.splitlines()
    assert lines[:3] == [
        "tiny: 6 new trials, 0 kept",
        "  digits: 1,437 training and 360 test images, 10 classes, not augmented",
        "    dirichlet, α = 0.5: 4 clients with 359 to 360 samples, median 359",
    ]
    text = " ".join(line.strip() for line in lines[3:])
    assert text.startswith("defaults that change the numbers (all keys: --explain): gn_groups = 2")
    assert "clip_norm = 10" in text
    assert "momentum_factor = 0.9" in text
    for absent in ("lr = ", "evaluate_every", "augment", "alpha"):
        assert absent not in text


def test_all_keys_are_explained_once(sqlite_url: str, tiny: Path) -> None:
    """Each has its values and who has chosen them, or no meaning in the plan."""
    changes = ("--set", "clip_norm=5", "--set", "client_accuracy=true")
    done = at_once("plan", str(tiny), "--db", sqlite_url, "--explain", *changes).stdout
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in done.splitlines() if "│" in line]
    table = {name: row for name, *row in rows}
    assert table["lr"] == ["0.05", "plan", "numbers"]
    assert table["clip_norm"] == ["5", "plan", "numbers"]
    assert table["normalizer"] == ["bn, gn, fixbn", "plan", "numbers"]
    assert table["gn_groups"] == ["2", "default", "numbers"]
    assert table["client_accuracy"] == ["yes", "plan", "no numbers"]
    (unused,) = [line for line in done.splitlines() if "without a meaning" in line]
    named = unused.partition(": ")[2].split(", ")
    assert sorted([*table, *named]) == sorted({*TrainConfig.model_fields} - UNNAMED)


def test_a_key_without_effect_is_named(sqlite_url: str, tiny: Path) -> None:
    """A plan may set it, for example for a block that it no longer has."""
    plan = ("plan", str(tiny), "--db", sqlite_url, "--dry-run", "--set", "prox_mu=0.5")
    line = "  ignored keys, which have no effect in this plan: prox_mu\n"
    assert line in at_once(*plan).stdout
    explained = at_once(*plan, "--explain").stdout
    assert line in explained
    (unused,) = [text for text in explained.splitlines() if "without a meaning" in text]
    assert "prox_mu" not in unused
    assert "ignored keys" not in at_once(*plan, "--set", "algorithm=fedprox").stdout


def test_a_hash_of_a_file_is_no_default(tiny: Path) -> None:
    """`plan` computes it, so nobody has to choose it."""
    keys = {key.name: key for key in explain(read_plan(tiny), [])}
    assert keys["gn_groups"].chosen == "default"
    assert keys["lr"].chosen == "plan"
    pinned = dataclasses.replace(keys["pretrained_hash"], values=("bdec9dc3",))
    assert pinned.chosen == "files"
    assert pinned.changes_numbers
    assert not pinned.silent


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["partition=iid"], ("iid", 4, 359, 359, 360)),
        (["partition=shards"], ("shards, 2 each", 4, 358, 359, 360)),
        (["partition=shards", "clients=3"], ("shards, 2 each", 3, 478, 479, 480)),
        (["centralized=true"], ("centralized", 1, 1437, 1437, 1437)),
    ],
)
def test_clients_are_counted_as_a_trial_splits_them(
    changes: list[str], expected: tuple[object, ...], tiny: Path
) -> None:
    """Their samples add up to the training set."""
    sweep, _, stocks = look_at_data(read_plan(tiny, changes), None)
    (facts,) = data_facts(sweep, stocks)
    (clients,) = facts.clients
    how, count, least, median, most = expected
    assert (clients.how, clients.count) == (how, count)
    assert clients.least <= clients.median <= clients.most
    assert abs(clients.least - int(str(least))) <= 1
    assert abs(clients.most - int(str(most))) <= 1
    assert abs(clients.median - float(str(median))) <= 1


def test_sizes_by_class_are_those_of_the_partition(tiny: Path) -> None:
    """The first seed is described. Clients differ much in a partition by class."""
    from trainers.data import datasets
    from trainers.partition import partition

    plan = read_plan(tiny, ["partition=dirichlet-class", "alpha=0.3", "normalizer=bn"])
    sweep, _, stocks = look_at_data(plan, None)
    (clients,) = data_facts(sweep, stocks)[0].clients
    labels = datasets.load("digits").train.labels.numpy()
    sizes = [len(part) for part in partition(labels, plan.trials[0].config)]
    assert (clients.least, clients.most) == (min(sizes), max(sizes))
    assert clients.least < clients.most


def test_many_partitions_are_counted(tmp_path: Path) -> None:
    """The first four are described."""
    file = tmp_path / "many.toml"
    file.write_text(
        TINY.replace("alpha = 0.5", "").replace("seed = [0, 1]", "alpha = [1, 2, 3, 4, 5]")
    )
    sweep, _, stocks = look_at_data(read_plan(file), None)
    (facts,) = data_facts(sweep, stocks)
    assert (len(facts.clients), facts.left_out) == (MOST_PARTITIONS, 1)


def test_the_values_of_packed_trials_are_those_of_each_trial(tiny: Path) -> None:
    """Each is listed once, in order."""
    trials = Trials.of(read_plan(tiny).trials)
    expected = {
        name: list(dict.fromkeys(getattr(config, name) for config in trials.configs))
        for name in TrainConfig.model_fields
        if name != "seed"
    }
    assert trials.values == expected
    silent = [key.name for key in explain(read_plan(tiny), []) if key.silent]
    assert "seed" not in silent
    assert not OUTSIDE_IDENTITY & set(silent)
