"""What an attempt ran with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import fedsweep
from fedsweep import provenance
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


def looked_at(checkout: Path) -> tuple[str | None, bool | None]:
    provenance.code.cache_clear()
    return provenance.code(checkout / "fedsweep")


def test_it_is_plain_values_with_the_versions_that_are_installed() -> None:
    """As JSON; what is not installed is left out, what is asked for besides is there."""
    found = provenance.provenance("a processor", "cpu", 2**30, ["typer", "no-such-package"])
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["fedsweep"] == fedsweep.__version__
    assert {"torch", "torchvision", "numpy", "safetensors", "sqlalchemy", "typer"} < set(
        found["packages"]
    )
    assert "no-such-package" not in found["packages"]
    assert (found["device"], found["memory"], found["driver"]) == ("a processor", 2**30, None)
    assert all(found[name] for name in ("python", "host", "platform"))


def test_the_commit_is_that_of_the_code_and_changes_beside_it_do_not_count(
    checkout: Path,
) -> None:
    """A database in the checkout is no change of the code; a module that is not added is."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "fedsweep.db").write_text("")
    assert looked_at(checkout) == (head, False)
    (checkout / "trainers" / "new.py").write_text("")
    assert looked_at(checkout) == (head, True)


def test_a_hook_s_variables_do_not_mislead_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets GIT_DIR where it starts programs itself."""
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    assert looked_at(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


def test_a_checkout_around_an_installed_package_is_not_its_own(checkout: Path) -> None:
    """A virtual environment lies in a project of another."""
    place = checkout / ".venv" / "fedsweep"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    assert looked_at(checkout / ".venv") == (None, None)


def test_without_git_or_a_checkout_nothing_is_said(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither costs an attempt."""
    assert looked_at(tmp_path_factory.mktemp("plain")) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert looked_at(checkout) == (None, None)


@pytest.mark.parametrize(
    ("said", "version"),
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
def test_the_driver_s_version_is_found_in_what_it_says(said: str, version: str | None) -> None:
    """The closed and the open kernel module word it differently."""
    assert provenance.driver_in(said) == version
