"""An attempt's claim on a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One attempt's claim on a trial. Every write of the attempt carries the fence."""

    trial: int
    """Key of the trial's row."""
    trial_id: str
    fence: int
    config: Mapping[str, Any]
    numerics_id: str | None
    """Numerics of the stored rounds, None if no attempt has set them."""
    data_fingerprint: str | None
    final_round: int
    """The last stored round, 0 if no round is stored."""
    trunk: str | None = None
    """The trunk that the trial shares with siblings, None if it shares none."""
    fork_round: int = 0
    """The last round that the trial may share."""
    store: str = ""
    """The store's own name, a part of the names of the attempt's files."""
