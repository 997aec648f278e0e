"""`fedsweep export`, started as a user starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep.store.schema import open_store
from tests import study
from tests.acceptance.command import at_once, fedsweep
from tests.builders import REPOSITORY


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:
    """A folder whose database has the study."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    store.dispose()
    return tmp_path


def test_each_export_prints_the_number_of_written_rows(folder: Path) -> None:
    """The output has the files, trials, rounds and runs."""
    output = at_once("export", "parquet", "--output", "p", cwd=folder).stdout
    assert "p/results.parquet: 12 rows (" in output
    assert "p/curves.parquet: 34 rows (" in output
    output = at_once("export", "tensorboard", "--output", "t", cwd=folder).stdout
    assert output == "t: 12 trials, 34 rounds\nlook at them: tensorboard --logdir t\n"


@pytest.mark.slow  # the import of mlflow takes seconds
def test_an_export_to_mlflow_prints_the_number_of_runs(folder: Path) -> None:
    """The output says how many were written, added to and kept."""
    output = at_once("export", "mlflow", "--output", "m", "--sweep", "study", cwd=folder)
    assert output.stdout == "m: 12 runs (12 written, 0 added to, 0 kept)\n"
    assert output.stderr == ""


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("parquet", "pyarrow", "tables"),
        ("tensorboard", "tensorboard", "trackers"),
        ("mlflow", "mlflow", "trackers"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(
    format: str, package: str, extra: str, folder: Path
) -> None:
    """The message is one sentence, the exit code is 2, and nothing is written."""
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {package!r} else found(name, *a)\n"
    )
    export = ("export", format, "--output", "out")
    refused = fedsweep(*export, cwd=folder, code=2, PYTHONPATH=f"{blocked}:{REPOSITORY}").stderr
    needs = f"export {format} needs packages: pip install 'fedsweep[{extra}]'"
    assert refused == f"fedsweep: {needs}\n"
    assert not (folder / "out").exists()
