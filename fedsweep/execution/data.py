"""Data sets on disk: checks before a plan and before an attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsweep.errors import (
    DataMissing,
    MachineError,
    PlanError,
    TrialFailed,
)
from fedsweep.execution.weights import weights_of
from fedsweep.plans import (
    Holdings,
    SweepSpec,
    TrainConfig,
    Trials,
    pinned,
)
from fedsweep.states import FailureKind
from fedsweep.store import stops
from trainers import engines
from trainers.engines import engine_of

if TYPE_CHECKING:
    from trainers.data.listing import Listing
    from trainers.data.stock import Stock

log = logging.getLogger("fedsweep")


def missing_data(need: Mapping[str, Any], root: Path | None) -> DataMissing | None:
    """Return a refusal if a trial's data set is not on this machine, None otherwise."""
    from trainers.data.errors import BadData, MachineLimit, Missing, shown
    from trainers.data.listing import list_data
    from trainers.facts import DOWNLOADED, is_on_disk

    dataset, lack = need["dataset"], data_of(need)
    if (table := need.get("partition_file")) and (root is None or not (root / table).is_file()):
        place = shown(root) if root is not None else "no data folder"
        return DataMissing(f"{shown(table)} is not in {place}: put it there, or set --data", lack)
    if not is_on_disk(dataset):
        if dataset == "digits" or root is None or root.is_dir():
            return None
        return DataMissing(f"{dataset}: there is no folder {shown(root)}: change --data", lack)
    if root is None and dataset in DOWNLOADED:
        return None
    try:
        list_data(need, root)
    except MachineLimit as error:
        raise MachineError(str(error)) from error
    except BadData as error:
        if isinstance(error, Missing) or need["fingerprint"] is not None:
            return DataMissing(str(error), lack)
    return None


def data_of(need: Mapping[str, Any]) -> stops.Lack:
    """Return the fields that name a trial's data."""
    more = ((name, need.get(name)) for name in ("file", "partition_file", "partition_fingerprint"))
    return (
        ("dataset", need["dataset"]),
        ("fingerprint", need.get("fingerprint")),
        *((name, value) for name, value in more if value is not None),
    )


def sound_data(config: TrainConfig, root: Path | None, before: str | None) -> engines.Data:
    """Return a trial's data set, split as configured, and its initial weights.

    `before` is the fingerprint of the data of its stored rounds, or None.

    Raises:
        DataMissing: data or weights are not on this machine, or are not those that were planned.
        TrialFailed: no machine can train on the data.

    """
    from trainers.data.errors import BadData, Missing
    from trainers.weight_files import WeightsMissing

    try:
        dataset = engine_of().load(config, root)
    except WeightsMissing as error:
        raise DataMissing(str(error), weights_of(config.model_dump())) from error
    except Missing as error:
        raise DataMissing(str(error), data_of(config.model_dump())) from error
    except (BadData, ValueError) as error:
        raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
    if before and before != dataset.fingerprint:
        raise DataMissing(
            f"the data here (fingerprint {dataset.fingerprint}) are not those of the stored "
            f"rounds ({before}): point --data at the same data on every machine",
            data_of(config.model_dump()),
        )
    return dataset


def look_at_data(
    sweep: SweepSpec,
    root: Path | None,
    file: Path | None = None,
    report: Callable[[str], object] = log.info,
) -> tuple[SweepSpec, bool, dict[str, Stock]]:
    """Check the data sets of a sweep, and pin the fingerprints of those on disk.

    Returns the sweep with the fingerprints, True if a data set could not be checked, and the
    samples of the others. `file` is the plan's file, for messages. `report` is called with each
    note about the data.

    Raises:
        PlanError: the folder is missing or empty, or the samples cannot be split as planned.

    """
    from trainers import precheck
    from trainers.data.listing import CHOICE
    from trainers.facts import DOWNLOADED, is_on_disk

    unseen = False
    stocks: dict[str, Stock] = {}
    for title, configs in _by_data(sweep, *CHOICE, "fingerprint").items():
        dataset = configs[0].dataset
        stock = precheck.released(dataset)
        if is_on_disk(dataset) and root is None and not _needs_no_folder(dataset):
            # The same plan gives the same trials, before and after a download. The downloaded
            # content is always the same: its checksum is verified.
            unseen |= dataset not in DOWNLOADED and any(c.fingerprint is None for c in configs)
        elif is_on_disk(dataset):
            listing, fingerprint, notes = _looked_at(configs, root)
            match = {name: getattr(configs[0], name) for name in ("dataset", "file", "clients_by")}
            sweep = pinned(sweep, match, {"fingerprint": fingerprint})
            stock = _stock(listing)
            for line in (*listing.found, *notes, *stock.notes):
                report(f"{title}: {line}")
        if stock is not None:
            stocks[title] = stock
    sweep = _assign(sweep, stocks, root)
    _check_partitions(sweep, stocks, file)
    return sweep, unseen, stocks


def _by_data(sweep: SweepSpec, *fields: str) -> dict[str, list[TrainConfig]]:
    """Return the configurations of a sweep that differ in some fields, by their data's title."""
    from trainers.data.listing import titled

    by_title: dict[str, list[TrainConfig]] = {}
    trials = Trials.of(sweep.trials).distinct(*fields)
    for config in (*trials, *(arm.config for arm in sweep.arms)):
        by_title.setdefault(titled(vars(config)), []).append(config)
    return by_title


def _needs_no_folder(dataset: str) -> bool:
    """Return whether a package brings a data set along, or finds it itself."""
    from trainers.config import DATASET

    return DATASET.offered(dataset) is not None


def _looked_at(
    configs: Sequence[TrainConfig], root: Path | None
) -> tuple[Listing, str, tuple[str, ...]]:
    """Return the listing of a data set on disk, its fingerprint, and notes on its content.

    Raises:
        PlanError: the files are missing, or no trial can be trained on them.

    """
    from trainers.data.content import check_decoded
    from trainers.data.errors import BadData, MachineLimit
    from trainers.data.files import Files
    from trainers.data.listing import list_data
    from trainers.regular import shown_bytes

    try:
        listing = list_data(vars(configs[0]), root)
        decoded = 0
        for config in configs:
            if isinstance(listing, Files) and config.image_size:
                sides = (config.image_size, config.image_size)
                images = len(listing.train) + len(listing.test)
                decoded = max(decoded, check_decoded(listing.root, images, *sides, 3))
        content = listing.content()
        content.check()
    except (BadData, MachineLimit, ValueError) as error:
        raise PlanError(str(error)) from error
    large = (f"decoded, the images take {shown_bytes(decoded)}",) if decoded >= LARGE else ()
    return listing, content.fingerprint, (*content.notes, *large)


LARGE = 10**9
"""A plan prints the size of decoded images if it is this large, in bytes, or larger."""


def _stock(listing: Listing) -> Stock:
    """Return the samples of a listing.

    Raises:
        PlanError: the files are not sound.

    """
    from trainers.data.errors import BadData, MachineLimit

    try:
        return listing.stock()
    except (BadData, MachineLimit, ValueError) as error:
        raise PlanError(str(error)) from error


def _assign(sweep: SweepSpec, stocks: dict[str, Stock], root: Path | None) -> SweepSpec:
    """Return the sweep with the fingerprints of the files of its partitions.

    The samples of their clients are added to the stocks.

    Raises:
        PlanError: a file is missing, or names other samples.

    """
    from trainers.data.errors import BadData, MachineLimit
    from trainers.data.listing import CHOICE, assignment

    for title, configs in _by_data(sweep, *CHOICE, "partition_file").items():
        for config in configs:
            if (name := config.partition_file) is None:
                continue
            if (stock := stocks.get(title)) is None:
                raise PlanError(
                    f'partition_file = "{name}" needs the samples of {title}: give their folder '
                    "with --data"
                )
            try:
                clients = assignment(vars(config), name, root, stock.samples)
            except (BadData, MachineLimit) as error:
                raise PlanError(str(error)) from error
            stocks[title] = replace(stock, files={**stock.files, name: clients.sizes})
            match = {"partition_file": name, "dataset": config.dataset}
            sweep = pinned(sweep, match, {"partition_fingerprint": clients.fingerprint})
    return sweep


def _check_partitions(sweep: SweepSpec, stocks: Mapping[str, Stock], file: Path | None) -> None:
    """Refuse a sweep with a trial whose samples cannot be split as planned.

    Raises:
        PlanError: the samples cannot be split; it names the plan's file, the keys and the remedy.

    """
    from trainers import precheck
    from trainers.data.listing import CHOICE, titled

    checks = precheck.Precheck()
    try:
        for arm in sweep.arms:
            if stock := stocks.get(titled(vars(arm.config))):
                checks.check(arm.config, stock, arm.all_seeds)
        for config in Trials.of(sweep.trials).distinct(*CHOICE, *precheck.FIELDS, "model", "seed"):
            if stock := stocks.get(titled(vars(config))):
                checks.check(config, stock, [config.seed])
    except ValueError as error:
        raise PlanError(f"{file}: {error}" if file else str(error)) from error


def holdings(configs: Sequence[TrainConfig], root: Path | None) -> list[Holdings]:
    """Return the number of samples per client and class under each configuration.

    Raises:
        PlanError: the data are not on this machine, or cannot be split as configured.

    """
    from trainers.data.errors import BadData, MachineLimit
    from trainers.facts import SEGMENTATION

    try:
        counts = [engine_of().class_counts(config, root) for config in configs]
        names = _names(configs, root)
    except (BadData, MachineLimit, ValueError) as error:
        raise PlanError(str(error)) from error
    return [
        Holdings(
            config,
            tuple(map(tuple, count)),
            "pixels" if config.dataset in SEGMENTATION else "samples",
            *named,
        )
        for config, count, named in zip(configs, counts, names, strict=True)
    ]


def _names(
    configs: Sequence[TrainConfig], root: Path | None
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the names of the classes and of the natural clients, for each configuration.

    Only image folders have names.
    """
    from trainers.data.files import Files, list_files

    listings: dict[str, Files] = {}
    names: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for config in configs:
        if config.dataset != "imagefolder":
            names.append(((), ()))
            continue
        by = config.clients_by or "nothing"
        files = listings.get(by) or listings.setdefault(by, list_files("imagefolder", root, by))
        names.append((files.classes, files.groups if config.partition == "natural" else ()))
    return names
