"""An event file a trial, for TensorBoard: scalars by round, and its hyperparameters.

Written by tensorboard's own records and protocol buffers; torch is not needed. A file is a function
of what is stored: written again it is the same, and there is one a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.exports import Progress, require
from fedsweep.exports.trials import Measured, Trial, read, sweeps_of
from fedsweep.filenames import safe_name
from fedsweep.files import make_folder, written
from fedsweep.measures import BY_GROUP
from fedsweep.states import TrialState
from fedsweep.store.targets import refuse_own

TAGS = {name: f"{group}/{name}" for group, names in BY_GROUP.items() for name in names}
"""A measure's tag: TensorBoard puts those with the same beginning side by side."""


@dataclass(frozen=True)
class Written:
    """What went into the folder."""

    trials: int
    rounds: int
    without: int
    """Trials that have no rounds yet, and so no file."""


def export(engine: Engine, folder: Path, sweep: str | None, progress: Progress) -> Written:
    """Write each trial with rounds to FOLDER/SWEEP/NAME; a trial of two sweeps is in both.

    Raises:
        PackageMissing: tensorboard is not installed.
        NotFound: there is no such sweep.
        RequestError: the folder cannot be written.

    """
    require("tensorboard", "trackers", "tensorboard")
    refuse_own(engine, folder, "--output")
    trials = rounds = without = 0
    for name, ids in sweeps_of(engine, sweep).items():
        for done, trial in enumerate(read(engine, ids), start=1):
            progress(name, done, len(ids))
            if not trial.rounds:
                without += 1
                continue
            _write(trial, _place(folder, name, trial))
            trials, rounds = trials + 1, rounds + len(trial.rounds)
    return Written(trials, rounds, without)


def _place(folder: Path, sweep: str, trial: Trial) -> Path:
    """A trial's file. Its name carries when the trial began, as TensorBoard expects."""
    place = folder / safe_name(sweep) / safe_name(trial.name)
    return place / f"events.out.tfevents.{int(trial.began)}.fedsweep"


def _write(trial: Trial, file: Path) -> None:
    """One file, in one step: a TensorBoard that watches sees the old one or the new one."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    try:
        make_folder(file.parent)
        # A sync of each of thousands of files takes longer than another export.
        with written(file, durable=False) as opened:
            writer = RecordWriter(opened)
            for event in _events(trial):
                writer.write(event.SerializeToString())
    except OSError as error:
        raise RequestError(
            f"{file} cannot be written ({error.strerror or error}): name another folder with "
            "--output"
        ) from error


def _events(trial: Trial) -> Iterator[Any]:
    """A trial's events, in the order of time."""
    from tensorboard.compat.proto import event_pb2

    yield event_pb2.Event(wall_time=trial.began, file_version="brain.Event:2")
    yield event_pb2.Event(wall_time=trial.began, summary=_begin(trial))
    last = trial.began
    for measured in trial.rounds:
        last = measured.at
        yield event_pb2.Event(wall_time=last, step=measured.round, summary=_scalars(measured))
    if trial.result["state"] in _STATUS:
        yield event_pb2.Event(wall_time=last, summary=_end(trial, last))


def _scalars(measured: Measured) -> Any:
    from tensorboard.compat.proto import summary_pb2

    values = [
        summary_pb2.Summary.Value(tag=TAGS[name], simple_value=value)
        for name, value in measured.values.items()
    ]
    return summary_pb2.Summary(value=values)


def _begin(trial: Trial) -> Any:
    """The hyperparameters; the trials of a cell, which differ in the seed, are one group."""
    from tensorboard.plugins.hparams import summary_v2

    known = {k: v for k, v in trial.config.items() if isinstance(v, (bool, int, float, str))}
    cell = trial.result["cell_id"]
    return summary_v2.hparams_pb(known, trial_id=cell, start_time_secs=trial.began)


_STATUS = {
    TrialState.FINISHED: "STATUS_SUCCESS",
    TrialState.FAILED: "STATUS_FAILURE",
    TrialState.CANCELLED: "STATUS_FAILURE",
}


def _end(trial: Trial, at: float) -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.Status.Value(_STATUS[TrialState(trial.result["state"])])
    ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=at)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=ended)
    value = summary_pb2.Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data)
    )
    value.tensor.CopyFrom(metadata.NULL_TENSOR)
    return summary_pb2.Summary(value=[value])
