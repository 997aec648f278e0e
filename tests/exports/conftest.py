"""Stores with the study, and one of its trials still queued."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from tests import study


@pytest.fixture
def filled(store: Engine, tmp_path: Path) -> Engine:
    """A store with the study."""
    study.fill(store, tmp_path)
    return store


def silent(_part: str, _done: int, _total: int | None) -> None:
    """No progress is shown."""
