"""The ids of trials, cells and trunks: hashes of the fields that the results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedsweep.fields import MEASURED
from trainers.config import (
    TrainConfig,
)

ID_DIGITS = 20


def trunk_of(config: TrainConfig, identity: Mapping[str, Any]) -> str | None:
    """Return the id of a configuration's trunk, or None if it shares nothing.

    The measures that a trial takes are part of its trunk's identity.
    """
    if config.normalizer not in ("bn", "fixbn") or fork_round(config) == 0:
        return None
    if config.freeze_rule == "auto":  # its fork round is not known before it is trained
        return None
    own = ("normalizer", "freeze_round", "freeze")
    common = {key: value for key, value in identity.items() if key not in own}
    measured = {name: getattr(config, name) for name in MEASURED}
    return content_hash({**common, "measured": measured})


def fork_round(config: TrainConfig) -> int:
    """Return the last round that a trial may share with other trials of its trunk."""
    return config.rounds if config.freeze_round is None else config.freeze_round


def content_hash(identity: Mapping[str, Any]) -> str:
    """Return hexadecimal digits of SHA-256 over the identity as sorted, compact JSON."""
    return hashlib.sha256(_COMPACT.encode(identity).encode()).hexdigest()[:ID_DIGITS]


_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
