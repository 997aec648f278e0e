"""One claimed trial, from its claim to its outcome. The only door to `trainers`.

Trainers import torch, so they are imported inside the functions that need them: `fedsweep plan`
asks this module about data without paying for it.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.errors import (
    DeviceError,
    FedsweepError,
    LeaseLost,
    PackageMissing,
    PlanError,
    StoreBusy,
    StoreError,
    TrialFailed,
)
from fedsweep.spec import (
    Claim,
    ClientScore,
    Holdings,
    Round,
    SweepSpec,
    TrainConfig,
    check_sizes,
    content_hash,
    pinned,
)
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import artifacts, reads, writes
from fedsweep.store.engine import patiently, read_clock, reading

if TYPE_CHECKING:
    from trainers import fedavg
    from trainers.dataset import Dataset

log = logging.getLogger("fedsweep")

SNAPSHOT_SECONDS = 1.0
"""Rounds are stored, and a snapshot taken, when this has passed since the last time: every round
where a round takes longer, else once a second. A kill loses no more than that."""


@dataclass(frozen=True)
class Place:
    """Where a trial runs: a device, torch's threads, and the folder of the data."""

    device: str = "cpu"
    threads: int = 1
    data: Path | None = None
    lease: float = queue.LEASE_SECONDS
    max_attempts: int = queue.MAX_ATTEMPTS


Watch = Callable[[Round], None]
Stop = Callable[[], bool]


def execute(engine: Engine, claim: Claim, place: Place, stop: Stop, watch: Watch) -> Outcome | None:
    """Run a claimed trial to its outcome, and say it; None where the claim was lost meanwhile.

    `stop` is asked after each round: True saves the state and gives the trial back. `watch` sees
    each round as it is measured.
    """
    attempt = _Attempt(engine, claim, place)
    try:
        try:
            attempt.require_packages()
            return attempt.run(stop, watch)
        except (LeaseLost, StoreError, StoreBusy, PackageMissing):
            raise  # no fault of the trial
        except TrialFailed as failure:
            attempt.fail(FailureKind(failure.kind), str(failure), None)
        except Exception as error:  # a trainer's bug must cost its trial, not the worker
            if _broken_device(error):
                attempt.lose(_one_line(error))
                raise DeviceError(
                    f"{place.device} is out of service: {_one_line(error)}"
                ) from error
            attempt.fail(_kind_of(error), _one_line(error), traceback.format_exc())
        return Outcome.FAILED
    except LeaseLost:
        return None


class _Attempt:
    """The claim, and the rounds that are measured but not stored yet."""

    def __init__(self, engine: Engine, claim: Claim, place: Place) -> None:
        self.engine = engine
        self.claim = claim
        self.place = place
        self.folder = artifacts.folder(engine.url)
        self.pending: list[Round] = []
        self.numerics_id = ""

    def require_packages(self) -> None:
        """Give the trial back where this machine lacks what its model or normaliser needs.

        Raises:
            PackageMissing: says which, and how to get it.

        """
        from trainers.config import normalizer_names

        config, lacks = self.claim.config, ""
        needed = ("segmentation_models_pytorch", "torchmetrics")
        if config["model"] == "deeplabv3plus" and not all(map(find_spec, needed)):
            lacks = f"{config['model']} needs packages: pip install 'fedsweep[segmentation]'"
        if config["normalizer"] not in normalizer_names():
            lacks = f"normaliser {config['normalizer']} is offered by no package: install its own"
        if lacks:
            patiently(self.engine, lambda connection: queue.release(connection, self.claim))
            raise PackageMissing(f"trial {self.claim.trial_id} cannot run here: {lacks}")

    def run(self, stop: Stop, watch: Watch) -> Outcome:
        from trainers import fedavg, numerics

        config = TrainConfig(**self.claim.config)
        dataset = self.load(config)
        numerics.settle(self.place.threads)
        computed_under = numerics.numerics(config, self.place.device)
        self.numerics_id = content_hash(computed_under)

        def begin(connection: Connection) -> list[str]:
            self.renew(connection)
            return writes.start_attempt(
                connection,
                self.claim,
                numerics_id=self.numerics_id,
                numerics=computed_under,
                data_fingerprint=dataset.fingerprint,
            )

        artifacts.remove(self.folder, patiently(self.engine, begin))
        state = self.resume()
        stored = time.monotonic()
        try:
            for measured in fedavg.run(config, dataset, state, device=self.place.device):
                row = _row(measured)
                self.pending.append(row)
                watch(row)
                if row.round == config.rounds:
                    return self.finish(measured if config.keep_weights else None)
                stopping = stop()
                if stopping or time.monotonic() - stored >= SNAPSHOT_SECONDS:
                    self.save(measured.state(), release=stopping)
                    stored = time.monotonic()
                if stopping:
                    return Outcome.RELEASED
        except fedavg.Diverged as error:
            raise TrialFailed(FailureKind.DIVERGED, str(error)) from error
        raise FedsweepError("the trainer stopped before the last round")

    def load(self, config: TrainConfig) -> Dataset:
        from trainers.folder import BadData
        from trainers.partition import partition

        try:
            dataset = _load_for(config, self.place.data)
            partition(dataset.train.labels.numpy(), config, dataset.members)
        except (BadData, ValueError) as error:
            raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
        before = self.claim.data_fingerprint
        if self.claim.final_round and before and before != dataset.fingerprint:
            raise TrialFailed(
                FailureKind.BAD_DATA,
                f"the data here (fingerprint {dataset.fingerprint}) are not those of the stored "
                f"rounds ({before}): point --data at the same data on every machine",
            )
        return dataset

    def resume(self) -> fedavg.State | None:
        """The state to go on from: of the latest sound snapshot, or None for the start."""
        from safetensors.torch import load

        from trainers import fedavg

        with reading(self.engine) as connection:
            snapshot = reads.latest_snapshot(connection, self.claim, self.numerics_id)
        content = artifacts.read(self.folder, snapshot) if snapshot else None
        if snapshot is None or content is None:
            return None
        return fedavg.State(snapshot.round, load(content))

    def save(self, state: fedavg.State, *, release: bool) -> None:
        """Store the pending rounds and a snapshot, in one commit; and give the trial back."""
        snapshot = self.snapshot(state)

        def store(connection: Connection) -> list[str]:
            self.store_pending(connection)
            replaced = writes.add_snapshot(connection, self.claim, snapshot) if snapshot else []
            if release:
                queue.release(connection, self.claim)
            return replaced

        replaced = patiently(self.engine, store)
        self.pending.clear()
        artifacts.remove(self.folder, replaced)

    def snapshot(self, state: fedavg.State) -> writes.Snapshot | None:
        """Write the state to a file. Where that cannot be done, rounds may be lost, not trials."""
        from safetensors.torch import save

        content = save(state.tensors)
        try:
            return artifacts.write(self.folder, self.claim, state.round, self.numerics_id, content)
        except OSError as error:
            log.warning("no snapshot of trial %s: %s", self.claim.trial_id, error)
            return None

    def finish(self, last: fedavg.Round | None) -> Outcome:
        """Store the pending rounds, and the weights of the last round where they are to be kept."""
        kept = self.keep(last) if last is not None else None

        def end(connection: Connection) -> list[str]:
            self.store_pending(connection)
            queue.finish(connection, self.claim)
            if kept is not None:
                writes.add_weights(connection, self.claim, kept)
            return writes.drop_snapshots(connection, self.claim.trial)

        try:
            artifacts.remove(self.folder, patiently(self.engine, end))
        except LeaseLost:
            artifacts.remove(self.folder, [kept.name] if kept else [])
            raise
        return Outcome.FINISHED

    def keep(self, last: fedavg.Round) -> writes.Weights:
        """Write the final weights to a file.

        Where that cannot be done the trial fails. Finished is for good: its weights would be lost,
        though they were asked for. A failed trial is tried again, from its latest snapshot.
        """
        from safetensors.torch import save

        content = save(last.weights())
        try:
            return artifacts.write_weights(self.folder, self.claim, content)
        except OSError as error:
            raise TrialFailed(
                FailureKind.ERROR,
                f"the final weights cannot be written to {self.folder} ({error.strerror}): make "
                "room there, or plan without keep_weights",
            ) from error

    def fail(self, kind: FailureKind, error: str, trace: str | None) -> None:
        """Store the rounds up to the failure, and say it."""

        def end(connection: Connection) -> None:
            with suppress(TrialFailed):  # the rounds may be what failed: the stored ones stay
                self.store_pending(connection)
            queue.fail(connection, self.claim, read_clock(connection), kind, error, trace)

        patiently(self.engine, end)

    def lose(self, why: str) -> None:
        """Leave the trial to another device."""
        patiently(self.engine, lambda connection: queue.lose(connection, self.claim, why))

    def store_pending(self, connection: Connection) -> None:
        self.renew(connection)
        differs = writes.add_rounds(connection, self.claim, self.pending)
        if differs is not None:
            raise TrialFailed(
                FailureKind.ERROR,
                f"round {differs.round} was trained again and gave {differs.column} = "
                f"{differs.again!r}, not the stored {differs.stored!r}, under equal numerics",
            )

    def renew(self, connection: Connection) -> None:
        queue.renew(connection, self.claim, read_clock(connection), lease=self.place.lease)


def _load_for(config: TrainConfig, root: Path | None) -> Dataset:
    sizes = (config.image_size, config.image_height)
    return _load(config.dataset, *sizes, config.fingerprint, root)


@lru_cache(maxsize=2)
def _load(
    dataset: str,
    image_size: int | None,
    image_height: int | None,
    fingerprint: str | None,
    root: Path | None,
) -> Dataset:
    """A data set, kept for the next trial of this process."""
    from trainers import data

    return data.load(
        dataset, root, image_size=image_size, image_height=image_height, fingerprint=fingerprint
    )


def _row(measured: fedavg.Round) -> Round:
    """As it is stored. A diagnostic that is not finite says nothing, and is left out."""
    values = {name: getattr(measured, name) for name in Round.__dataclass_fields__}
    for name in ("statistics_mismatch", "gradient_deviation", "client_drift"):
        values[name] = _finite(values[name])
    if (layers := measured.statistics_mismatch_layers) is not None:
        sound = {layer: value for layer, value in layers.items() if math.isfinite(value)}
        values["statistics_mismatch_layers"] = sound
    values["clients"] = tuple(
        ClientScore(score.client, score.samples, score.test_accuracy) for score in measured.clients
    )
    return Round(**values)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _kind_of(error: Exception) -> FailureKind:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return FailureKind.OUT_OF_MEMORY
    if "can't allocate memory" in str(error):  # torch's allocator on a CPU raises RuntimeError
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.ERROR


def _broken_device(error: Exception) -> bool:
    """Whether the fault is the device's: after such an error its context is dead, and every
    further trial would fail on it.
    """
    marks = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NVML")
    full = _kind_of(error) is FailureKind.OUT_OF_MEMORY
    return isinstance(error, RuntimeError) and not full and any(m in str(error) for m in marks)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def try_device(device: str) -> None:
    """Touch a GPU before any trial is claimed for it.

    Raises:
        DeviceError: it is broken, or its memory is full: no fault of a trial.

    """
    if not device.startswith("cuda"):
        return
    import torch

    try:
        torch.ones(1 << 24, device=device).sum().item()
    except (RuntimeError, torch.OutOfMemoryError) as error:
        raise DeviceError(f"{device} is out of service: {_one_line(error)}") from error


def devices(asked: str) -> list[str]:
    """The devices that --device names, one or several; `auto` takes every GPU, else the CPU.

    Raises:
        DeviceError: there is no such device here.

    """
    if asked == "cpu":
        return ["cpu"]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [f"cuda:{i}" for i in range(count)]
    if asked == "auto":
        return there or ["cpu"]
    if asked == "cuda" and there:
        return there
    if asked in there:
        return [asked]
    if asked == "cuda" or asked.startswith("cuda:"):
        found = f"only {', '.join(there)}" if there else "no CUDA device"
        raise DeviceError(f"--device {asked}: there is {found} here; choose --device auto or cpu")
    raise DeviceError(f"--device {asked} is none of auto, cpu, cuda, cuda:N")


def look_at_data(sweep: SweepSpec, root: Path | None) -> tuple[SweepSpec, bool]:
    """The sweep with the content of its data sets on disk in its identity, as far as they are at
    hand; and whether something could not be looked at.

    Raises:
        PlanError: the folder is missing, empty, or too small for the partition.

    """
    from trainers.config import DOWNLOADED, ON_DISK
    from trainers.folder import BadData, list_files

    configs = [t.config for t in sweep.trials if t.config.dataset in ON_DISK]
    unseen = False
    for dataset in dict.fromkeys(config.dataset for config in configs):
        of_it = [config for config in configs if config.dataset == dataset]
        if root is None:
            # Also where they were downloaded meanwhile: the same plan is the same trials. What is
            # downloaded is one content, checked by its sum.
            unseen |= dataset not in DOWNLOADED and any(c.fingerprint is None for c in of_it)
            continue
        try:
            files = list_files(dataset, root)
            for config in of_it:
                check_sizes(config, len(files.train))
        except (BadData, ValueError) as error:
            raise PlanError(str(error)) from error
        sweep = pinned(sweep, dataset, files.fingerprint())
    return sweep, unseen


def holdings(configs: Sequence[TrainConfig], root: Path | None) -> list[Holdings]:
    """Who holds what under each of these configurations.

    Raises:
        PlanError: the data are not at hand, or cannot be split so.

    """
    from trainers.config import SEGMENTATION
    from trainers.folder import BadData
    from trainers.partition import class_counts

    try:
        counts = [class_counts(_load_for(config, root), config) for config in configs]
    except (BadData, ValueError) as error:
        raise PlanError(str(error)) from error
    return [
        Holdings(
            config,
            tuple(map(tuple, count.tolist())),
            "pixels" if config.dataset in SEGMENTATION else "samples",
        )
        for config, count in zip(configs, counts, strict=True)
    ]


def snapshot_bytes(configs: Sequence[TrainConfig]) -> int:
    """The largest snapshot of these trials, bytes, as far as a plan can tell."""
    return max((_model_bytes(c) * (1 + _velocities(c)) for c in configs), default=0)


def weights_bytes(configs: Sequence[TrainConfig]) -> int:
    """All the final weights that these trials are to keep, bytes, about."""
    return sum(_model_bytes(config) for config in configs if config.keep_weights)


def _model_bytes(config: TrainConfig) -> int:
    from trainers.config import STATE_ELEMENTS

    return STATE_ELEMENTS[config.model] * (8 if config.dtype == "float64" else 4)


def _velocities(config: TrainConfig) -> int:
    """Vectors as long as the model: each registered client's, or the averaged one; the server's."""
    clients = 1 if config.centralized else config.clients or 1  # natural ones are not known yet
    kept = {"local": clients, "global": 1}.get(config.momentum, 0)
    return kept + (config.server_momentum > 0)
