"""A store that is filled with the study."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from tests import study


@pytest.fixture
def filled(store: Engine, tmp_path: Path) -> Engine:
    """Return a store with the study."""
    study.fill(store, tmp_path)
    return store
