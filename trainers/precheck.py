"""Refuse the partitions that fail every trial, before any trial is planned.

The number of samples of each class decides this, so that no data are decoded and torch is not
imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal

from trainers import own_models
from trainers.config import BY_CLIENT, TrainConfig
from trainers.data.stock import Stock
from trainers.facts import CLASS_SAMPLES, DOWNLOADED_CLASSES, TEST_SAMPLES
from trainers.sizes import check_sizes, held_back

MOST_NUMBERS = 200_000_000
"""Random numbers, about 20 seconds of them, after which a plan checks no further Dirichlet
partition by class. The worker checks the partitions that are left."""

MOST_CLIENTS = 1_000_000
"""Clients whose sizes are listed, at most."""

MOST_FOR_ONE = 350_000_000
"""Random numbers, about 40 seconds of them, after which one partition is left to the worker. That
is enough for all draws of 200 classes and 1,000 clients."""

NUMBERS_PER_CLASS = 650
"""Making a generator and the arrays of a class takes as long as so many random numbers."""


def released(dataset: str) -> Stock | None:
    """Return the training samples of a data set whose content never changes, otherwise None."""
    classes = {**CLASS_SAMPLES, **DOWNLOADED_CLASSES}.get(dataset)
    if classes is None:
        return None
    return Stock(sum(classes), classes, test=TEST_SAMPLES[dataset])


def client_sizes(config: TrainConfig, stock: Stock) -> Sequence[int] | None:
    """Return the samples of each client under the configuration's seed, before validation.

    None if the clients are too many, or if that would take too long.

    Raises:
        ValueError: no partition can be made.

    """
    if config.centralized:
        return [stock.samples]
    if config.partition in BY_CLIENT:
        return by_client(config, stock)
    from trainers import partition

    if config.clients is None or config.clients > MOST_CLIENTS:
        return None
    if config.partition == "dirichlet-class":
        assert config.alpha is not None
        assert config.min_samples is not None
        most = MOST_FOR_ONE / (NUMBERS_PER_CLASS + config.clients)
        counts, _ = partition.class_shares(
            stock.classes, config.clients, config.alpha, config.min_samples, config.seed, most
        )
        return None if counts is None else [int(size) for size in counts.sum(1)]
    if config.partition == "shards":
        assert config.shards_per_client is not None
        return partition.shard_sizes(
            stock.samples, config.clients, config.shards_per_client, config.seed
        )
    return partition.even_sizes(stock.samples, config.clients)


def by_client(config: TrainConfig, stock: Stock) -> tuple[int, ...]:
    """Return the samples of each client of the data, or of the file of the partition."""
    if config.partition_file is not None:
        return stock.files.get(config.partition_file, ())
    return stock.groups


@dataclass
class Precheck:
    """The checks of one plan. Each distinct partition is checked once."""

    checked: set[tuple[object, ...]] = field(default_factory=set)
    numbers: int = 0
    """Random numbers taken so far."""

    def check(self, config: TrainConfig, stock: Stock, seeds: Sequence[int]) -> None:
        """Refuse a configuration whose samples cannot be split under one of these seeds.

        Raises:
            ValueError: no partition can be made, no sample is held back for validation, or the
                images do not fit the model.

        """
        check_side(config, stock.side)
        by_seed = self.by_seed(config)
        for seed in seeds if by_seed else seeds[:1]:
            values = (getattr(config, name) for name in FIELDS)
            data = (config.dataset, config.file, config.clients_by)
            key = (*data, *values, seed if by_seed else None)
            if key in self.checked:
                continue
            self.checked.add(key)
            check_sizes(config, stock.samples)
            if config.partition == "natural" and not stock.groups:
                raise ValueError("the data have no groups of their own for a natural partition")
            largest = self.largest_client(config, stock, seed)
            if config.validation and largest is not None:
                check_validation(config, largest)

    def by_seed(self, config: TrainConfig) -> bool:
        """Return whether the sizes of the clients depend on the seed."""
        by_shards = config.partition == "shards" and config.validation > 0
        return by_shards or config.partition == "dirichlet-class"

    def largest_client(self, config: TrainConfig, stock: Stock, seed: int) -> int | None:
        """Return the samples of the largest client; None if that would take too long.

        Raises:
            ValueError: no draw of a Dirichlet partition by class gives each client its minimum.

        """
        if config.centralized:
            return stock.samples
        if config.partition in BY_CLIENT:
            return max(by_client(config, stock), default=None)
        assert config.clients is not None
        if config.partition == "dirichlet-class":
            return self.largest_by_class(config, stock.classes, seed)
        if config.partition == "shards":
            from trainers.partition import shard_sizes

            assert config.shards_per_client is not None
            return max(shard_sizes(stock.samples, config.clients, config.shards_per_client, seed))
        return -(-stock.samples // config.clients)

    def largest_by_class(
        self, config: TrainConfig, classes: tuple[int, ...], seed: int
    ) -> int | None:
        """Return the samples of the largest client of a Dirichlet partition by class."""
        from trainers.partition import class_shares

        assert config.clients is not None
        assert config.alpha is not None
        assert config.min_samples is not None
        if self.numbers >= MOST_NUMBERS:
            return None
        each = NUMBERS_PER_CLASS + config.clients
        counts, drawn = class_shares(
            classes,
            config.clients,
            config.alpha,
            config.min_samples,
            seed,
            MOST_FOR_ONE / each,
        )
        self.numbers += drawn * each
        return None if counts is None else int(counts.sum(1).max())


FIELDS = (
    "centralized",
    "partition",
    "partition_file",
    "clients",
    "alpha",
    "min_samples",
    "shards_per_client",
    "validation",
)
"""The fields that decide, with the seed, how many samples each client has."""


def check_side(config: TrainConfig, side: int | None) -> None:
    """Refuse one of our models that cannot take images with so many pixels on a side.

    Raises:
        ValueError: the images are too small, or their side is no multiple of the model's.

    """
    own = own_models.facts(config.model)
    if own is None or side is None:
        return
    images = f"the images of {config.dataset} have {side} pixels on a side"
    if side < own.smallest_side:
        raise ValueError(
            f"{images}, and {config.model} needs {own.smallest_side} or more: choose another model"
        )
    if side % own.side_multiple:
        raise ValueError(
            f"{images}, and {config.model} needs a multiple of {own.side_multiple}: choose another "
            "model"
        )


def check_validation(config: TrainConfig, largest: int) -> None:
    """Refuse a fraction that holds back no sample of any client.

    Raises:
        ValueError: the largest client, with so many training samples, holds back none.

    """
    if held_back(config.validation, largest):
        return
    remedy = "lower clients"
    if largest > 1:
        least = Context(prec=2, rounding=ROUND_CEILING).divide(Decimal("0.5"), Decimal(largest))
        remedy = f"raise validation to {least:f} or more"
    raise ValueError(
        f"validation = {config.validation:g} holds back no sample of any client, because the "
        f"largest has {largest:,} of them: {remedy}, or set validation = 0"
    )
