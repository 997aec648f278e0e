"""Draws: the samples of a round's batches, and the crops and flips of its images.

They are a function of the seed, the clients' samples and a few numbers, never of the model. This
file imports neither torch nor pydantic, so that the process of `trainers.prefetch` starts quickly.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainers.keys import keyed

Indices: TypeAlias = NDArray[np.int32]
"""Places of samples in the training set. Half as long as int64 in a pipe and in the cache."""

Offsets: TypeAlias = NDArray[np.signedinteger | np.unsignedinteger]
"""[…, 3, B]: the first row and the first column of a crop of the padded image, and 1 for a flip."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """Everything that the draws of a trial depend on."""

    seed: int
    cohort: int
    """Clients per round."""
    batch_size: int
    padding: int | None
    """Pixels by which images are padded on all four sides; None if they are not augmented."""
    steps: tuple[int, ...]
    """Local steps of each client per round."""
    samples: tuple[NDArray[np.int64], ...]
    """Places of each client's samples in the training set."""

    @cached_property
    def key(self) -> bytes:
        """A hash of all fields, 16 bytes. Equal keys mean equal draws in every round."""
        sizes = [len(part) for part in self.samples]
        facts = (self.seed, self.cohort, self.batch_size, self.padding, self.steps, sizes)
        content = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        for part in self.samples:
            content.update(np.ascontiguousarray(part, np.int64).data)
        return content.digest()

    @cached_property
    def offset_type(self) -> np.dtype[np.signedinteger | np.unsignedinteger]:
        """The smallest type that holds the offsets of a crop."""
        largest = 2 * (self.padding or 0)
        kinds: tuple[type[np.signedinteger | np.unsignedinteger], ...]
        kinds = (np.int8, np.uint8, np.int16, np.int32)
        return np.dtype(next(kind for kind in kinds if largest <= np.iinfo(kind).max))

    def shape(self, client: int) -> tuple[int, int]:
        """Return E and B of a client. B is smaller if it has fewer samples than a batch."""
        return self.steps[client], min(self.batch_size, len(self.samples[client]))


class Drawn:
    """The draws of one round, for each client of its cohort. Treat the arrays as constants.

    All numbers are views of `content`: the indices of all clients, then the offsets of all clients.
    Several trials may use them at the same time.
    """

    def __init__(self, sampling: Sampling, round: int, content: bytearray | None = None) -> None:
        """Interpret the content of a round. Without content, the numbers are zeros.

        Raises:
            ValueError: the content has another length.

        """
        members = cohort(sampling.seed, len(sampling.samples), sampling.cohort, round)
        self.round = round
        self.places = {client: place for place, client in enumerate(members)}
        self.shapes = [sampling.shape(client) for client in members]
        self.starts = [0, *accumulate(steps * size for steps, size in self.shapes)]
        count, kind = self.starts[-1], sampling.offset_type
        offsets = 0 if sampling.padding is None else 3 * count * kind.itemsize
        self.content = bytearray(4 * count + offsets) if content is None else content
        if len(self.content) != 4 * count + offsets:
            raise ValueError(f"{len(self.content)} bytes, not {4 * count + offsets}")
        self._indices: Indices = np.frombuffer(self.content, np.int32, count)
        self._offsets: Offsets | None = None
        if sampling.padding is not None:
            self._offsets = np.frombuffer(self.content, kind, 3 * count, 4 * count)

    def client(self, client: int) -> tuple[Indices, Offsets | None]:
        """Return indices [E, B] and offsets [E, 3, B] of a client; no offsets if not augmented.

        Raises:
            KeyError: the client is not in the round's cohort.

        """
        place = self.places[client]
        (steps, size), start = self.shapes[place], self.starts[place]
        end = start + steps * size
        indices = self._indices[start:end].reshape(steps, size)
        if self._offsets is None:
            return indices, None
        return indices, self._offsets[3 * start : 3 * end].reshape(steps, 3, size)

    def stacked(self) -> tuple[Indices, Offsets | None]:
        """Return indices [K, E, B] and offsets [K, E, 3, B] of the K clients, ascending.

        E is the largest number of local steps. Further steps of a client are zeros.

        Raises:
            ValueError: the clients have batches of different sizes.

        """
        sizes = {size for _, size in self.shapes}
        if len(sizes) > 1:
            raise ValueError(f"the clients of round {self.round} have batches of sizes {sizes}")
        count, size = len(self.shapes), sizes.pop()
        longest = max(steps for steps, _ in self.shapes)
        if self.starts[-1] == count * longest * size:
            indices = self._indices.reshape(count, longest, size)
            if self._offsets is None:
                return indices, None
            return indices, self._offsets.reshape(count, longest, 3, size)
        indices = np.zeros((count, longest, size), np.int32)
        offsets = None
        if self._offsets is not None:
            offsets = np.zeros((count, longest, 3, size), self._offsets.dtype)
        for client, place in self.places.items():
            steps, (own, moves) = self.shapes[place][0], self.client(client)
            indices[place, :steps] = own
            if offsets is not None and moves is not None:
                offsets[place, :steps] = moves
        return indices, offsets


def draw(sampling: Sampling, round: int) -> Drawn:
    """Draw a round for its whole cohort."""
    drawn = Drawn(sampling, round)
    for client in drawn.places:
        indices, offsets = drawn.client(client)
        own, moves = draw_client(sampling, round, client)
        indices[:] = own
        if offsets is not None and moves is not None:
            offsets[:] = moves
    return drawn


def draw_client(sampling: Sampling, round: int, client: int) -> tuple[Indices, Offsets | None]:
    """Draw indices [E, B] and offsets [E, 3, B] of one client; no offsets if not augmented."""
    samples, (steps, size) = sampling.samples[client], sampling.shape(client)
    indices = client_batches(
        samples, sampling.batch_size, steps, sampling.seed, round, client
    ).astype(np.int32)
    if sampling.padding is None:
        return indices, None
    offsets = np.empty((steps, 3, size), sampling.offset_type)
    for step, row in enumerate(offsets):
        key = keyed(sampling.seed, "augment", round, client, step)
        row[:] = crop_offsets(size, sampling.padding, key)
    return indices, offsets


def cohort(seed: int, clients: int, size: int, round: int) -> list[int]:
    """Sample so many of a round's clients without replacement. Return them ascending."""
    if size == clients:
        return list(range(clients))
    order = keyed(seed, "cohort", round).permutation(clients)
    return sorted(order[:size].tolist())


def epoch_batches(
    samples: NDArray[np.int64], batch_size: int, draw: np.random.RandomState
) -> NDArray[np.int64]:
    """Permute the samples for one local epoch, and cut them into whole batches [steps, B].

    A last partial batch is dropped unless it is the only one.
    """
    order = samples[draw.permutation(len(samples))]
    size = min(batch_size, len(order))
    return order[: len(order) // size * size].reshape(-1, size)


def client_batches(
    samples: NDArray[np.int64], batch_size: int, steps: int, seed: int, round: int, client: int
) -> NDArray[np.int64]:
    """Return the sample indices [steps, B] of a client's round, epoch after epoch.

    B is the batch size, or the number of samples if the client has fewer.
    """
    taken = 0
    epochs: list[NDArray[np.int64]] = []
    while taken < steps:
        draw = keyed(seed, "batches", round, client, len(epochs))
        epochs.append(epoch_batches(samples, batch_size, draw)[: steps - taken])
        taken += len(epochs[-1])
    return np.concatenate(epochs)


def padding(height: int, width: int) -> int:
    """Return an eighth of an image's shorter side: 4 pixels at 32x32, as He et al. 2016 take."""
    return min(height, width) // 8


def crop_offsets(count: int, padding: int, draw: np.random.RandomState) -> NDArray[np.int64]:
    """Draw the crops of so many padded images, and their flips: offsets [3, count]."""
    offsets = draw.randint(0, 2 * padding + 1, (2, count))
    return np.concatenate([offsets, draw.randint(0, 2, (1, count))])
