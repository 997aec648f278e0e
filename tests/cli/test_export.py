"""`fedsweep export`, as a user starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep.store.schema import open_store
from tests import study
from tests.acceptance.command import at_once, fedsweep
from tests.builders import REPOSITORY


@pytest.fixture
def here(sqlite_url: str, tmp_path: Path) -> Path:
    """A folder whose database has the study."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    store.dispose()
    return tmp_path


def test_each_export_says_what_it_wrote(here: Path) -> None:
    """With counts."""
    said = at_once("export", "parquet", "--output", "p", cwd=here).stdout
    assert "p/results.parquet: 12 rows (" in said
    assert "p/curves.parquet: 34 rows (" in said
    said = at_once("export", "tensorboard", "--output", "t", cwd=here).stdout
    assert said == "t: 12 trials, 34 rounds\nlook at them: tensorboard --logdir t\n"
    said = at_once("export", "mlflow", "--output", "m", "--sweep", "study", cwd=here)
    assert said.stdout == "m: 12 runs (12 written, 0 added to, 0 kept)\n"
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("parquet", "pyarrow", "tables"),
        ("tensorboard", "tensorboard", "trackers"),
        ("mlflow", "mlflow", "trackers"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(
    format: str, package: str, extra: str, here: Path
) -> None:
    """In one sentence, exit 2, and nothing is written."""
    blocked = here / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {package!r} else found(name, *a)\n"
    )
    export = ("export", format, "--output", "out")
    refused = fedsweep(*export, cwd=here, code=2, PYTHONPATH=f"{blocked}:{REPOSITORY}").stderr
    needs = f"export {format} needs packages: pip install 'fedsweep[{extra}]'"
    assert refused == f"fedsweep: {needs}\n"
    assert not (here / "out").exists()
