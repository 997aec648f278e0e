"""Partitions: the assignment of training samples to clients.

A partition is a list of M arrays of sample indices, ascending, disjoint, together all samples.
It is a function of the labels, the configuration's fields and the seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainers.config import BY_CLIENT, TrainConfig
from trainers.identity import TINY_ALPHA
from trainers.keys import keyed
from trainers.progress import progress
from trainers.sizes import check_sizes, held_back

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainers.data.dataset import Dataset

Indices = NDArray[np.int64]


def partition(
    labels: NDArray[Any], config: TrainConfig, members: NDArray[np.int64] | None = None
) -> list[Indices]:
    """Split the samples with these labels [N], or [N, H, W], among the clients.

    `members` [N] are the samples' own groups, or those of a file, for a partition by client.
    Centralized training is one client with all samples.

    Raises:
        ValueError: the samples cannot be split so.

    """
    check_sizes(config, len(labels))
    if config.centralized:
        return [np.arange(len(labels))]
    if config.partition in BY_CLIENT:
        return natural(members)
    assert config.clients is not None
    if config.partition == "iid":
        return iid(len(labels), config.clients, config.seed)
    if config.partition == "shards":
        assert config.shards_per_client is not None
        return shards(labels, config.clients, config.shards_per_client, config.seed)
    assert config.alpha is not None
    if config.partition == "dirichlet":
        return dirichlet(labels, config.clients, config.alpha, config.seed)
    assert config.min_samples is not None
    return dirichlet_class(labels, config.clients, config.alpha, config.min_samples, config.seed)


def iid(samples: int, clients: int, seed: int) -> list[Indices]:
    """Split the samples at random. Sizes differ by at most one."""
    order = keyed(seed, "partition", "iid").permutation(samples)
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(labels: NDArray[np.int64], clients: int, alpha: float, seed: int) -> list[Indices]:
    """Draw each client's class mix q_m ~ Dir(alpha * 1), then its samples without replacement.

    When a class runs out, its column is set to zero and q_m is renormalized (Hsu et al. 2019).
    Sizes differ by at most one.

    The code draws all of a client's classes, keeps those that still have samples, and draws the
    rest again. This is equivalent to drawing the classes one by one and refusing exhausted ones.
    Below TINY_ALPHA, all of q_m's mass in float64 often lies on exhausted classes. The mix is then
    renormalized from its logarithms.
    """
    classes = int(labels.max()) + 1
    stock = [
        keyed(seed, "partition", "class", c).permutation(np.flatnonzero(labels == c))
        for c in range(classes)
    ]
    taken = np.zeros(classes, dtype=np.int64)
    size = np.array([len(s) for s in stock], dtype=np.int64)
    parts: list[Indices] = []
    for m, client_size in enumerate(even_sizes(len(labels), clients)):
        progress.step()
        logs = _log_mix(classes, alpha, seed, m)
        mix = _softmax(logs)
        draw = keyed(seed, "partition", "draw", m)
        counts = np.zeros(classes, dtype=np.int64)
        while (missing := client_size - int(counts.sum())) > 0:
            left = size - taken - counts
            q = np.where(left > 0, mix, 0.0)
            if alpha < TINY_ALPHA and q.sum() < SMALLEST_MASS:
                q = _softmax(np.where(left > 0, logs, -np.inf))
            elif q.sum() == 0:  # At 0.01, fewer than one client in a million.
                q = left.astype(np.float64)
            counts += np.minimum(draw.multinomial(missing, q / q.sum()), left)
        pieces = [stock[c][taken[c] : taken[c] + counts[c]] for c in range(classes)]
        taken += counts
        parts.append(np.sort(np.concatenate(pieces)))
    return parts


def class_mix(classes: int, alpha: float, seed: int, client: int) -> NDArray[np.float64]:
    """Q ~ Dir(alpha * 1) [classes]."""
    return _softmax(_log_mix(classes, alpha, seed, client))


def _log_mix(classes: int, alpha: float, seed: int, client: int) -> NDArray[np.float64]:
    """Return the logarithms of a client's class mix [classes], not normalized."""
    return _log_gammas(keyed(seed, "partition", "mix", client), alpha, classes)


SMALLEST_MASS = 1e-290
"""If the rest of a class mix sums to less, its loss to underflow may be visible."""

REDRAWS = 1000
"""Draws after which a minimum size is given up."""


def dirichlet_class(
    labels: NDArray[np.int64], clients: int, alpha: float, min_samples: int, seed: int
) -> list[Indices]:
    """Class after class draws its shares p ~ Dir(alpha * 1) over the clients; a client that holds
    N/M samples or more gets none; all is drawn again until the smallest holds `min_samples`.

    Yurochkin et al. 2019; NIID-Bench (Li et al. 2022). Sizes differ.

    Raises:
        ValueError: no draw gave every client so many.

    """
    stock = [
        keyed(seed, "partition", "class", c).permutation(np.flatnonzero(labels == c))
        for c in range(int(labels.max()) + 1)
    ]
    counts, _ = class_shares([len(s) for s in stock], clients, alpha, min_samples, seed)
    assert counts is not None  # any number of classes may be drawn
    cuts = np.cumsum(counts, axis=0)
    starts = cuts - counts
    hands = zip(starts, cuts, strict=True)
    return [
        np.sort(np.concatenate([s[a:b] for s, a, b in zip(stock, x, y, strict=True)]))
        for x, y in hands
    ]


def class_shares(
    sizes: Sequence[int],
    clients: int,
    alpha: float,
    min_samples: int,
    seed: int,
    most_classes: float = math.inf,
) -> tuple[NDArray[np.int64] | None, int]:
    """Return each client's samples of each class [M, classes], and the number of classes drawn.

    The samples are None if no draw was good and another one would take more than `most_classes`.

    Raises:
        ValueError: no draw gave every client `min_samples`.

    """
    drawn = 0
    for attempt in range(REDRAWS):
        progress.step()
        if drawn + len(sizes) > most_classes:
            return None, drawn
        counts = _class_shares(sizes, clients, alpha, seed, attempt, min_samples)
        drawn += counts.shape[1]
        if counts.shape[1] == len(sizes) and counts.sum(1).min() >= min_samples:
            return counts, drawn
    raise ValueError(
        f"none of {REDRAWS} draws of a Dirichlet partition by class gave each of {clients} clients "
        f"{min_samples} samples at alpha = {alpha}, seed = {seed}: raise alpha, or lower clients "
        "or min_samples"
    )


def _class_shares(
    sizes: Sequence[int], clients: int, alpha: float, seed: int, attempt: int, min_samples: int = 0
) -> NDArray[np.int64]:
    """Return the number of samples of each class for each client, [M, classes].

    The later classes are left out if all of their samples cannot give each client its minimum.
    """
    counts: list[NDArray[np.int64]] = []
    held = np.zeros(clients, dtype=np.int64)
    left = sum(sizes)
    fair = left / clients
    for c, size in enumerate(sizes):
        if not size:  # every client may be full already
            counts.append(np.zeros(clients, dtype=np.int64))
            continue
        logs = _log_gammas(keyed(seed, "partition", "share", attempt, c), alpha, clients)
        logs[held >= fair] = -np.inf
        cuts = np.floor(np.cumsum(_softmax(logs)) * size).astype(np.int64)
        # The shares sum to 1 but for rounding: the last client that may take any takes the rest.
        cuts[np.flatnonzero(np.isfinite(logs))[-1] :] = size
        cuts[1:] -= cuts[:-1].copy()
        counts.append(cuts)
        held += cuts
        left -= size
        if left < min_samples * clients and np.maximum(min_samples - held, 0).sum() > left:
            break
    return np.array(counts, dtype=np.int64).reshape(-1, clients).T


def _log_gammas(draw: np.random.RandomState, alpha: float, count: int) -> NDArray[np.float64]:
    """Logarithms of Gamma(alpha) variates, so that a tiny alpha does not underflow.

    Gamma(a) = Gamma(a + 1) * U^(1/a) (Marsaglia and Tsang 2000, section 6). Below SMALLEST_ALPHA,
    the logarithms themselves would be infinite.
    """
    alpha = max(alpha, SMALLEST_ALPHA)
    logs: NDArray[np.float64] = np.log(draw.standard_gamma(alpha + 1, count))
    return logs + np.log1p(-draw.random_sample(count)) / alpha


SMALLEST_ALPHA = 1e-300
"""A Dirichlet distribution of this alpha is its limit at 0: all of the mass is on one class."""


def _softmax(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def natural(members: NDArray[np.int64] | None) -> list[Indices]:
    """Return one client per group of the data, such as a city or a drive.

    Raises:
        ValueError: the data have none.

    """
    if members is None:
        raise ValueError("the data have no groups of their own for a natural partition")
    return [np.flatnonzero(members == group) for group in range(int(members.max()) + 1)]


def shards(labels: NDArray[np.int64], clients: int, per_client: int, seed: int) -> list[Indices]:
    """Sort by label, cut into s*M shards, give s random ones to each (McMahan et al. 2017)."""
    order = keyed(seed, "partition", "shuffle").permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    pieces = np.array_split(by_label, clients * per_client)
    hands = _deal(clients, per_client, seed)
    return [np.sort(np.concatenate([pieces[i] for i in hand])) for hand in hands]


def shard_sizes(samples: int, clients: int, per_client: int, seed: int) -> list[int]:
    """Return how many samples each client gets of `shards`."""
    each, longer = divmod(samples, clients * per_client)
    extra = (_deal(clients, per_client, seed) < longer).sum(1)
    return (each * per_client + extra).tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def _deal(clients: int, per_client: int, seed: int) -> Indices:
    """Return the shards of each client, [M, s]."""
    order = keyed(seed, "partition", "deal").permutation(clients * per_client)
    return order.reshape(clients, per_client)


def hold_back(part: Indices, config: TrainConfig, client: int) -> tuple[Indices, Indices]:
    """Split a client's samples into (training, validation). At least one stays for training."""
    held = held_back(config.validation, len(part))
    order = keyed(config.seed, "validation", client).permutation(len(part))
    return np.sort(part[order[held:]]), np.sort(part[order[:held]])


def even_sizes(samples: int, clients: int) -> list[int]:
    """Return sizes of floor(N/M) or one more, in an order that favors no client."""
    return [samples * (m + 1) // clients - samples * m // clients for m in range(clients)]


def class_counts(data: Dataset, config: TrainConfig) -> NDArray[np.int64]:
    """Return each client's training samples of each class, [M, classes].

    In segmentation, pixels are counted. Samples held back for validation are included.
    """
    labels = data.train.labels.numpy()
    return count_classes(labels, partition(labels, config, data.members), data.classes)


def count_classes(labels: NDArray[Any], parts: list[Indices], classes: int) -> NDArray[np.int64]:
    """Each part's samples of each class, [M, classes]; of labels [N, H, W] the pixels, without the
    void ones.
    """
    flat = labels.reshape(len(labels), -1)
    counts = [np.bincount(flat[part].ravel(), minlength=classes)[:classes] for part in parts]
    return np.array(counts, dtype=np.int64)
