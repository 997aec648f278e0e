"""The environment of launched workers, in a file that only the user can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep.errors import RequestError
from fedsweep.launch import environment, launches
from fedsweep.launch.order import Order

URL = "postgresql://me:s3cret@host/db"


def test_workers_get_our_variables_and_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database's, ours, those of storage, and the named ones; none of another launch."""
    for name, value in {
        "FEDSWEEP_DATA": "/data",
        "PGPASSWORD": "p",
        "AWS_REGION": "eu",
        "MINE": "1",
        "OTHER": "2",
        "FEDSWEEP_LAUNCH": "{}",
    }.items():
        monkeypatch.setenv(name, value)
    passed = environment.gather(URL, ["https://hook/1", "https://hook/2"], ["MINE"])
    assert passed["FEDSWEEP_DB"] == URL
    assert passed["FEDSWEEP_NOTIFY"] == "https://hook/1 https://hook/2"
    named = {"FEDSWEEP_DATA": "/data", "PGPASSWORD": "p", "AWS_REGION": "eu", "MINE": "1"}
    assert named.items() <= passed.items()
    assert not {"OTHER", "FEDSWEEP_LAUNCH"} & passed.keys()


def test_a_variable_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled name would otherwise be missed by every worker."""
    monkeypatch.delenv("MINE", raising=False)
    with pytest.raises(RequestError, match="--env MINE: this variable is not set here"):
        environment.gather(URL, [], ["MINE"])


def test_only_the_user_reads_the_folder(tmp_path: Path) -> None:
    """The folder and the file have no rights for others, with any umask."""
    order = Order(launch="3f2a90bc", kind="slurm", folder=str(tmp_path / "l" / "3f2a90bc"))
    folder = launches.prepare(order, {"FEDSWEEP_DB": URL})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / environment.FILE).stat().st_mode & 0o777 == 0o600
    assert environment.read(folder) == {"FEDSWEEP_DB": URL}
    environment.remove(folder)
    with pytest.raises(RequestError, match="launch from a folder that all nodes see"):
        environment.read(folder)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """A file in its place is named with the remedy."""
    (tmp_path / "l").write_text("")
    order = Order(launch="3f2a90bc", kind="slurm", folder=str(tmp_path / "l" / "3f2a90bc"))
    with pytest.raises(RequestError, match="name another folder with --folder"):
        launches.prepare(order, {})
