"""Randomness as a function: each random number depends on its key, never on earlier random
numbers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray


class _Key(ISeedSequence):
    """Hands a generator its key as it is. Philox(key=…) is the same stream, but first asks the
    system for entropy that it then drops: more than half of its time.
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words

    def generate_state(self, _n_words: int, _dtype: Any = np.uint32) -> NDArray[np.uint64]:
        return self.words


def keyed(seed: int, purpose: str, *index: int | str) -> np.random.RandomState:
    """Return a generator that depends only on its arguments.

    `index` is (round, client, epoch or step) or a module path, as the purpose needs. RandomState,
    because NumPy promises its streams forever (NEP 19); over Philox, because that is keyed.
    """
    name = "\x1f".join([str(seed), purpose, *map(str, index)]).encode()
    words = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")
    return np.random.RandomState(np.random.Philox(_Key(words)))  # type: ignore[arg-type]  # its stub knows no ISeedSequence
