"""Registries of our own parts and of other packages' ones."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from trainers.registry import code_hash


def module(folder: Path, text: str) -> EntryPoint:
    """An entry point of a module with one file."""
    folder.joinpath("offering.py").write_text(text)
    return EntryPoint("mine", "offering:PART", "fedsweep.models")


def test_the_code_of_a_module_is_hashed_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal files have equal hashes, wherever they are. One more character changes the hash."""
    monkeypatch.syspath_prepend(tmp_path)
    first = code_hash(module(tmp_path, "raise SystemExit\n"))
    assert len(first) == 16
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.syspath_prepend(other)
    assert code_hash(module(other, "raise SystemExit\n")) == first
    assert code_hash(module(other, "raise SystemExit \n")) != first


def test_the_code_of_a_package_is_that_of_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name of a file changes the hash too. Compiled files do not count."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "offered_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/layers.py"):
        (package / name).write_text("")
    point = EntryPoint("mine", "offered_package.inner.layers:PART", "fedsweep.models")
    first = code_hash(point)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "layers.pyc").write_bytes(b"x")
    assert code_hash(point) == first
    (package / "inner" / "layers.py").rename(package / "inner" / "blocks.py")
    assert code_hash(point) != first


def test_a_part_without_files_has_no_code() -> None:
    """A built-in module, and one that is not there."""
    for value in ("sys:exit", "no_such_module:PART"):
        with pytest.raises(ValueError, match="offered as mine"):
            code_hash(EntryPoint("mine", value, "fedsweep.models"))
