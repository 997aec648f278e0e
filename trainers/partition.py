"""Who holds which training sample.

A partition is a list of M arrays of sample indices, ascending, disjoint, together all samples.
It is a function of the labels, the configuration's fields and the seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainers.config import TrainConfig, check_sizes, share
from trainers.keys import keyed

Indices = NDArray[np.int64]


def partition(labels: NDArray[np.int64], config: TrainConfig) -> list[Indices]:
    """Split the samples with these labels [N] among `config.clients` clients.

    Raises:
        ValueError: there are fewer samples than clients or shards.

    """
    check_sizes(config, len(labels))
    if config.partition == "iid":
        return iid(len(labels), config.clients, config.seed)
    if config.partition == "shards":
        assert config.shards_per_client is not None
        return shards(labels, config.clients, config.shards_per_client, config.seed)
    assert config.alpha is not None
    return dirichlet(labels, config.clients, config.alpha, config.seed)


def iid(samples: int, clients: int, seed: int) -> list[Indices]:
    """A random split; sizes differ by at most one."""
    order = keyed(seed, "partition", "iid").permutation(samples)
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(labels: NDArray[np.int64], clients: int, alpha: float, seed: int) -> list[Indices]:
    """Client m draws its class mix q_m ~ Dir(alpha * 1), then its samples without replacement.

    When a class runs out, its column is zeroed and q_m renormalised (Hsu et al. 2019). Sizes
    differ by at most one. Drawing a client's classes one by one and refusing exhausted ones is
    the same as drawing them all, keeping what is there and drawing the rest again, as done here.
    """
    classes = int(labels.max()) + 1
    stock = [
        keyed(seed, "partition", "class", c).permutation(np.flatnonzero(labels == c))
        for c in range(classes)
    ]
    taken = np.zeros(classes, dtype=np.int64)
    size = np.array([len(s) for s in stock], dtype=np.int64)
    parts: list[Indices] = []
    for m, wanted in enumerate(_even_sizes(len(labels), clients)):
        mix = class_mix(classes, alpha, seed, m)
        draw = keyed(seed, "partition", "draw", m)
        counts = np.zeros(classes, dtype=np.int64)
        while (missing := wanted - int(counts.sum())) > 0:
            left = size - taken - counts
            q = np.where(left > 0, mix, 0.0)
            # All of q_m's mass may lie on exhausted classes: then what is left decides.
            q = q if q.sum() > 0 else left.astype(np.float64)
            counts += np.minimum(draw.multinomial(missing, q / q.sum()), left)
        pieces = [stock[c][taken[c] : taken[c] + counts[c]] for c in range(classes)]
        taken += counts
        parts.append(np.sort(np.concatenate(pieces)))
    return parts


def class_mix(classes: int, alpha: float, seed: int, client: int) -> NDArray[np.float64]:
    """Q ~ Dir(alpha * 1) [classes], by logarithms, so that a tiny alpha does not underflow.

    Gamma(a) = Gamma(a + 1) * U^(1/a) (Marsaglia and Tsang 2000, section 6).
    """
    draw = keyed(seed, "partition", "mix", client)
    log_gamma = np.log(draw.standard_gamma(alpha + 1, classes))
    log_gamma += np.log1p(-draw.random_sample(classes)) / alpha
    weights = np.exp(log_gamma - log_gamma.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def shards(labels: NDArray[np.int64], clients: int, per_client: int, seed: int) -> list[Indices]:
    """Sort by label, cut into s*M shards, give s random ones to each (McMahan et al. 2017)."""
    order = keyed(seed, "partition", "shuffle").permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    pieces = np.array_split(by_label, clients * per_client)
    deal = keyed(seed, "partition", "deal").permutation(len(pieces)).reshape(clients, per_client)
    return [np.sort(np.concatenate([pieces[i] for i in hand])) for hand in deal]


def hold_back(part: Indices, config: TrainConfig, client: int) -> tuple[Indices, Indices]:
    """A client's (training, validation) samples; at least one stays for training."""
    held = min(share(config.validation, len(part)), len(part) - 1)
    order = keyed(config.seed, "validation", client).permutation(len(part))
    return np.sort(part[order[held:]]), np.sort(part[order[:held]])


def _even_sizes(samples: int, clients: int) -> list[int]:
    """floor(N/M) or one more, in an order that favours nobody in particular."""
    return [samples * (m + 1) // clients - samples * m // clients for m in range(clients)]
