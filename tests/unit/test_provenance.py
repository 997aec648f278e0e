"""The provenance of an attempt."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import fedsweep
from fedsweep import provenance, words
from tests.builders import REPOSITORY


def git(folder: Path, *arguments: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *names, "-C", str(folder), *arguments],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with both packages, committed."""
    for name in ("fedsweep", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def code_of(checkout: Path) -> tuple[str | None, bool | None]:
    provenance.code.cache_clear()
    return provenance.code(checkout / "fedsweep")


def test_the_provenance_is_json_with_the_installed_versions() -> None:
    """Packages that are not installed are left out, and requested packages are added."""
    values = provenance.provenance("a processor", "cpu", 2**30, ["typer", "no-such-package"])
    assert json.loads(json.dumps(values)) == values
    assert values["packages"]["fedsweep"] == fedsweep.__version__
    assert {"torch", "torchvision", "numpy", "safetensors", "sqlalchemy", "typer"} < set(
        values["packages"]
    )
    assert "no-such-package" not in values["packages"]
    assert (values["device"], values["memory"], values["driver"]) == ("a processor", 2**30, None)
    assert all(values[name] for name in ("python", "host", "platform"))


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ('{"packed": true}', "2 GB of its process's memory at most"),
        ('{"packed": false}', "2 GB of memory at most"),
        ("{}", "2 GB of memory at most"),
        (None, "2 GB of memory at most"),
    ],
)
def test_the_memory_of_a_process_with_several_trials_is_called_so(
    stored: str | None, text: str
) -> None:
    """Attempts of older versions have stored nothing about it."""
    assert words.memory_of({"memory": 2 * 10**9, "provenance": stored}) == text
    assert words.memory_of({"memory": None, "provenance": stored}) is None


def test_only_changes_of_the_code_make_the_commit_dirty(
    checkout: Path,
) -> None:
    """A database in the checkout is not a change, but a module that is not added is one."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "fedsweep.db").write_text("")
    assert code_of(checkout) == (head, False)
    (checkout / "trainers" / "new.py").write_text("")
    assert code_of(checkout) == (head, True)


def test_the_variables_of_a_git_hook_are_ignored(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is right although git sets GIT_DIR for a program that it starts."""
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    assert code_of(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


def test_a_checkout_around_an_installed_package_is_ignored(checkout: Path) -> None:
    """A package in a virtual environment does not belong to the project around it."""
    place = checkout / ".venv" / "fedsweep"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    assert code_of(checkout / ".venv") == (None, None)


def test_the_commit_is_unknown_without_git_or_a_checkout(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provenance is stored without it."""
    assert code_of(tmp_path_factory.mktemp("plain")) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert code_of(checkout) == (None, None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\nGCC version: 12",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n",
            "570.86.15",
        ),
        ("", None),
    ],
)
def test_the_version_of_the_driver_is_read_from_its_text(text: str, version: str | None) -> None:
    """The closed and the open kernel module have different texts."""
    assert provenance.driver_in(text) == version
