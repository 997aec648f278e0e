"""Randomness as a function: a draw is keyed by what it is for, never by what came before it."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed(seed: int, purpose: str, *index: int | str) -> np.random.RandomState:
    """A generator that depends on its arguments alone.

    `index` is (round, client, epoch or step) or a module path, as the purpose needs. RandomState,
    because NumPy promises its streams forever (NEP 19); over Philox, because that is keyed.
    """
    name = "\x1f".join([str(seed), purpose, *map(str, index)]).encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.RandomState(np.random.Philox(key=key))
