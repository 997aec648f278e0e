"""The data sets of a plan: their images, classes and clients, for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsweep.plans import SweepSpec, TrainConfig, Trials

if TYPE_CHECKING:
    from trainers.data.stock import Stock

MOST_PARTITIONS = 4
"""Partitions of a data set that are described, at most."""


@dataclass(frozen=True)
class Clients:
    """The clients of one partition of a data set, with its first seed."""

    how: str
    """The partition in a few words, such as "dirichlet, α = 0.1"."""
    count: int
    least: int
    median: float
    most: int
    """The largest client's training samples, before some are held back for validation."""


@dataclass(frozen=True)
class DataFacts:
    """A data set of a plan."""

    name: str
    training: int
    """Training images."""
    test: int
    """Test images; 0 if their number is not known."""
    classes: int
    """0 if each pixel has a class."""
    augmented: tuple[bool, ...]
    """True, False or both: whether training images are cropped and flipped at random."""
    clients: tuple[Clients, ...]
    left_out: int
    """Further partitions, which are not described."""


def data_facts(sweep: SweepSpec, stocks: Mapping[str, Stock]) -> list[DataFacts]:
    """Return the data sets of a sweep whose samples are known."""
    trials = Trials.of(sweep.trials)
    arms = [arm.config for arm in sweep.arms]
    return [_data(trials, arms, name, stock) for name, stock in stocks.items()]


def _data(trials: Trials, arms: Sequence[TrainConfig], dataset: str, stock: Stock) -> DataFacts:
    from trainers import precheck
    from trainers.data.listing import CHOICE, titled

    configs = [*trials.distinct(*CHOICE, "augment", *precheck.FIELDS), *arms]
    configs = [config for config in configs if titled(vars(config)) == dataset]
    partitions: dict[tuple[str, int | None], TrainConfig] = {}
    for config in configs:
        partitions.setdefault((_how(config), config.clients), config)
    described = list(partitions.items())[:MOST_PARTITIONS]
    clients = (_clients(how, config, stock) for (how, _), config in described)
    return DataFacts(
        name=dataset,
        training=stock.samples,
        test=stock.test,
        classes=len(stock.classes),
        augmented=tuple(dict.fromkeys(bool(config.augment) for config in configs)),
        clients=tuple(one for one in clients if one is not None),
        left_out=len(partitions) - len(described),
    )


def _how(config: TrainConfig) -> str:
    """Return a partition in a few words."""
    if config.centralized:
        return "centralized"
    if config.partition_file is not None:
        return f"file, {config.partition_file}"
    words = {"alpha": "α = {:g}", "min_samples": "at least {} each", "shards_per_client": "{} each"}
    parts = [
        text.format(value)
        for name, text in words.items()
        if (value := getattr(config, name)) is not None
    ]
    return ", ".join([str(config.partition), *parts])


def _clients(how: str, config: TrainConfig, stock: Stock) -> Clients | None:
    """Return the clients of a partition; None if their samples are not known."""
    from trainers.precheck import client_sizes

    sizes = client_sizes(config, stock)
    if not sizes:
        return None
    return Clients(
        how=how,
        count=len(sizes),
        least=min(sizes),
        median=statistics.median(sizes),
        most=max(sizes),
    )
