"""Folders of a test's own, instead of this user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files of stores on a server in the test's folder: weights stay on this machine."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
