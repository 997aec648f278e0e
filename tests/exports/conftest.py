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
