"""An attempt's hold on a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One attempt's hold on a trial. Every write it makes carries the fence."""

    trial: int
    """The row's key."""
    trial_id: str
    fence: int
    config: Mapping[str, Any]
    numerics_id: str | None
    """What the stored rounds were computed under; None where there are none."""
    data_fingerprint: str | None
    final_round: int
    """The last stored round, 0 where there is none."""
    trunk: str | None = None
    """What it shares with siblings; None where nothing."""
    fork_round: int = 0
    """The last round that it may share."""
    store: str = ""
    """The database's own name, a part of the names of the attempt's files."""
