"""The Python interface: the same work as the commands, with arguments and data frames."""

from __future__ import annotations

import html
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedsweep import interface
from fedsweep.errors import NotFound, PlanError, RequestError, StoreError
from fedsweep.plans import Trials, read_document, read_plan
from fedsweep.plans.toml_text import NoToml, toml_text
from tests.acceptance.command import at_once, environment, query
from tests.builders import TINY

PROTOCOL: dict[str, Any] = {
    "dataset": "digits",
    "model": "cnn",
    "clients": 4,
    "rounds": 3,
    "local_steps": 2,
    "batch_size": 8,
    "lr": 0.05,
    "alpha": 0.5,
}
PLAN: dict[str, Any] = {
    "name": "tiny",
    "protocol": PROTOCOL,
    "grid": [
        {"normalizer": ["bn", "gn"], "seed": [0, 1]},
        {"normalizer": "fixbn", "freeze_round": 1, "seed": [0, 1]},
    ],
}
"""The plan `TINY` as a dictionary."""


def test_a_dictionary_is_the_same_plan_as_its_file(tmp_path: Path) -> None:
    """Its text is TOML that gives the same trials again, and is stored with the sweep."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    spec = read_document(PLAN)
    assert Trials.of(spec.trials).ids == Trials.of(read_plan(file).trials).ids
    file.write_text(spec.text)
    assert Trials.of(read_plan(file).trials).ids == Trials.of(spec.trials).ids


@pytest.mark.parametrize(
    "value",
    [0, -3, 2.5, 1e-7, True, "a", 'q"\\\n\x7f\x00é', [1, 2], ["a"], [], {"low": 0, "high": "100%"}],
)
def test_each_value_of_a_plan_survives_its_text(value: object) -> None:
    """Texts may contain any character."""
    import tomllib

    assert tomllib.loads(toml_text({"table": {"key": value}})) == {"table": {"key": value}}
    assert tomllib.loads(toml_text({"key": value})) == {"key": value}


def test_numbers_of_numpy_and_ranges_are_plain_values() -> None:
    """Notebooks make grids with both."""
    seeds = {"seed": range(3), "lr": np.array([0.5, 0.25]), "rounds": np.int64(3), "alpha": (1.5,)}
    assert toml_text(seeds) == "seed = [0, 1, 2]\nlr = [0.5, 0.25]\nrounds = 3\nalpha = [1.5]\n"


@pytest.mark.parametrize("wrong", [{"key": None}, {"key": {1, 2}}, {3: "x"}, {"key": [object()]}])
def test_a_value_without_a_form_in_toml_is_refused(wrong: Any) -> None:
    """The message names the key."""
    with pytest.raises(NoToml, match=r"key"):
        toml_text(wrong)


def test_a_sweep_is_planned_trained_and_read(
    walk_in_test: None, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second plan adds nothing. The frames have the columns and values of the views."""
    planned = interface.plan(PLAN, store_url, set={"rounds": 4})
    assert (planned.sweep, planned.new, planned.kept) == ("tiny", 6, 0)
    assert interface.plan(PLAN, store_url, set={"rounds": 4}).kept == 6
    assert interface.results(store_url).state.unique().tolist() == ["queued"]
    tally = interface.work(store_url, device="cpu")
    assert (tally.finished, tally.failed) == (6, 0)
    assert len(capsys.readouterr().out.splitlines()) == 6
    results = interface.results(store_url, sweep="tiny")
    stored = query(store_url, "SELECT trial_id, test_accuracy FROM results")
    assert sorted(zip(results.trial_id, results.test_accuracy, strict=True)) == sorted(stored)
    assert results.rounds.dtype == pd.Int64Dtype()
    assert results.freeze_round.isna().sum() == 4
    curves = interface.curves(store_url)
    assert len(curves) == 24
    assert curves.groupby("trial_id").test_accuracy.last().sort_index().tolist() == (
        results.set_index("trial_id").test_accuracy.sort_index().tolist()
    )
    assert interface.cells(store_url).n.tolist() == [2, 2, 2]
    with pytest.raises(NotFound):
        interface.results(store_url, sweep="another")


def test_a_report_shows_itself_in_a_notebook(walk_in_test: None, sqlite_url: str) -> None:
    """Its page is escaped into a frame, so that it cannot change the notebook."""
    interface.plan(PLAN, sqlite_url)
    interface.work(sqlite_url, device="cpu", show=False)
    report = interface.report(sqlite_url, where="normalizer!=gn")
    assert repr(report) == "<report on tiny>"
    assert "| BN |" in str(report)
    assert "GN" not in str(report)
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!')
    page = shown.removeprefix('<iframe srcdoc="').partition('"')[0]
    assert html.unescape(page) == report.html()
    assert report.html().startswith("<!")
    with pytest.raises(RequestError, match=r"^metric: there is no final measure"):
        interface.report(sqlite_url, metric="speed")


def test_one_trial_is_trained_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounds are those of a worker. No file is written."""
    monkeypatch.chdir(tmp_path)
    config = PROTOCOL | {"normalizer": "fixbn", "freeze_round": "34%"}
    rounds = list(interface.train(config, device="cpu"))
    assert list(tmp_path.iterdir()) == []
    assert [(r.round, r.phase) for r in rounds] == [
        (1, "explore"),
        (2, "calibrate"),
        (3, "calibrate"),
    ]
    url = f"sqlite:///{tmp_path}/one.db"
    interface.plan({"name": "one", "protocol": config}, url)
    interface.work(url, device="cpu", show=False)
    stored = interface.curves(url).sort_values("round")
    assert stored.test_accuracy.tolist() == [r.test_accuracy for r in rounds]
    assert stored.train_loss.tolist() == [r.train_loss for r in rounds]


def test_errors_name_arguments_instead_of_options(tmp_path: Path) -> None:
    """They are those of the commands, with one sentence each."""
    with pytest.raises(PlanError, match=r"^the plan: \[protocol\] model = \"cmm\" is none of"):
        interface.plan({"name": "x", "protocol": PROTOCOL | {"model": "cmm"}}, "sqlite://")
    with pytest.raises(PlanError, match="normalizer is missing"):
        interface.train(PROTOCOL)
    with pytest.raises(StoreError) as refused:
        interface.results(f"sqlite:///{tmp_path}/none.db")
    assert "--" not in str(refused.value)
    with pytest.raises(RequestError, match=r"^slots many is neither auto nor a number"):
        interface.work(f"sqlite:///{tmp_path}/none.db", device="cpu", slots="many")


def test_a_worker_may_run_in_another_thread(walk_in_test: None, sqlite_url: str) -> None:
    """Only the main thread can handle signals."""
    interface.plan(PLAN, sqlite_url)
    finished: list[int] = []

    def run() -> None:
        finished.append(interface.work(sqlite_url, device="cpu", show=False).finished)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert finished == [6]


def test_a_script_without_a_guard_starts_no_workers_of_workers(
    walk_in_test: None, sqlite_url: str, tmp_path: Path
) -> None:
    """Its processes do not run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from fedsweep import interface\n"
        "print('the script runs')\n"
        f"print(interface.work({sqlite_url!r}, device='cpu', slots=2, show=False).finished)\n"
    )
    at_once("plan", str(_tiny(tmp_path)), "--db", sqlite_url)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["the script runs", "6"]


def _tiny(folder: Path) -> Path:
    file = folder / "tiny.toml"
    file.write_text(TINY)
    return file


def test_the_package_offers_the_interface() -> None:
    """No part of the package hides a function. An unknown name is an error as usual."""
    import fedsweep

    for name in fedsweep.__all__:
        assert getattr(fedsweep, name) is getattr(interface, name)
        assert name in dir(fedsweep)
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        fedsweep.plann  # type: ignore[attr-defined]  # noqa: B018
