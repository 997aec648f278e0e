"""Data sets on disk: checks before a plan and before an attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsweep.errors import (
    DataMissing,
    MachineError,
    PlanError,
    TrialFailed,
)
from fedsweep.execution.weights import weights_of
from fedsweep.plan import (
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
    from trainers import precheck

log = logging.getLogger("fedsweep")


def missing_data(need: Mapping[str, Any], root: Path | None) -> DataMissing | None:
    """Return a refusal if a trial's data set is not on this machine, None otherwise."""
    from trainers.data.errors import BadData, MachineLimit, Missing, shown
    from trainers.data.files import list_files
    from trainers.facts import DOWNLOADED, ON_DISK

    dataset, lack = need["dataset"], data_of(need)
    if dataset not in ON_DISK:
        if dataset == "digits" or root is None or root.is_dir():
            return None
        return DataMissing(f"{dataset}: there is no folder {shown(root)}: change --data", lack)
    if root is None and dataset in DOWNLOADED:
        return None
    try:
        list_files(dataset, root)
    except MachineLimit as error:
        raise MachineError(str(error)) from error
    except BadData as error:
        if isinstance(error, Missing) or need["fingerprint"] is not None:
            return DataMissing(str(error), lack)
    return None


def data_of(need: Mapping[str, Any]) -> stops.Lack:
    """Return the fields that name a trial's data."""
    return ("dataset", need["dataset"]), ("fingerprint", need.get("fingerprint"))


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
) -> tuple[SweepSpec, bool, dict[str, precheck.Stock]]:
    """Check the data sets of a sweep, and pin the fingerprints of those on disk.

    Returns the sweep with the fingerprints, True if a data set could not be checked, and the
    samples of the others. `file` is the plan's file, for messages. `report` is called with each
    note about the data.

    Raises:
        PlanError: the folder is missing or empty, or the samples cannot be split as planned.

    """
    from trainers import precheck
    from trainers.data.content import check_decoded
    from trainers.data.errors import BadData, MachineLimit
    from trainers.data.files import list_files
    from trainers.facts import DOWNLOADED, ON_DISK

    unseen = False
    stocks: dict[str, precheck.Stock] = {}
    trials = Trials.of(sweep.trials)
    configs = [*trials.distinct("dataset", "fingerprint"), *(arm.config for arm in sweep.arms)]
    for dataset in dict.fromkeys(config.dataset for config in configs):
        stock = precheck.released(dataset)
        if dataset in ON_DISK and root is None:
            # The same plan gives the same trials, before and after a download. The downloaded
            # content is always the same: its checksum is verified.
            unseen |= dataset not in DOWNLOADED and any(
                c.fingerprint is None for c in configs if c.dataset == dataset
            )
        elif dataset in ON_DISK:
            try:
                files = list_files(dataset, root)
                for config in configs:
                    if config.dataset == dataset == "imagefolder" and config.image_size:
                        sides = (config.image_size, config.image_size)
                        check_decoded(files.root, len(files.train) + len(files.test), *sides, 3)
                content = files.content()
                content.check()
            except (BadData, MachineLimit, ValueError) as error:
                raise PlanError(str(error)) from error
            sweep = pinned(sweep, dataset, content.fingerprint)
            for line in (*files.found, *content.notes):
                report(f"{dataset}: {line}")
            stock = precheck.on_disk(files)
        if stock is not None:
            stocks[dataset] = stock
    _check_partitions(sweep, stocks, file)
    return sweep, unseen, stocks


def _check_partitions(
    sweep: SweepSpec, stocks: Mapping[str, precheck.Stock], file: Path | None
) -> None:
    """Refuse a sweep with a trial whose samples cannot be split as planned.

    Raises:
        PlanError: the samples cannot be split; it names the plan's file, the keys and the remedy.

    """
    from trainers import precheck

    checks = precheck.Precheck()
    try:
        for arm in sweep.arms:
            if stock := stocks.get(arm.config.dataset):
                checks.check(arm.config, stock, arm.all_seeds)
        for config in Trials.of(sweep.trials).distinct("dataset", *precheck.FIELDS, "seed"):
            if stock := stocks.get(config.dataset):
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
    except (BadData, MachineLimit, ValueError) as error:
        raise PlanError(str(error)) from error
    return [
        Holdings(
            config,
            tuple(map(tuple, count)),
            "pixels" if config.dataset in SEGMENTATION else "samples",
        )
        for config, count in zip(configs, counts, strict=True)
    ]
