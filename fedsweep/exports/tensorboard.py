"""Export an event file for each trial to TensorBoard: scalars by round, and hyperparameters.

The files are written with tensorboard's own records and protocol buffers, without torch. A file
depends only on the stored trial, so a second export writes the same file again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.exports import ShowProgress, require
from fedsweep.exports.trials import MeasuredRound, Trial, read_trials, trial_ids_by_sweep
from fedsweep.filenames import safe_name
from fedsweep.files import make_folder, written
from fedsweep.measures import BY_GROUP
from fedsweep.states import TrialState
from fedsweep.store.targets import refuse_own

TAGS = {name: f"{group}/{name}" for group, names in BY_GROUP.items() for name in names}
"""The tag of each measure. TensorBoard groups tags with the same beginning."""


@dataclass(frozen=True)
class WrittenTrials:
    """The numbers of trials and rounds that were written."""

    trials: int
    rounds: int
    without: int
    """The number of trials without rounds. They have no file."""


def export(
    engine: Engine, folder: Path, sweep: str | None, progress: ShowProgress
) -> WrittenTrials:
    """Write each trial with rounds to FOLDER/SWEEP/NAME.

    A trial of two sweeps is written for both.

    Raises:
        PackageMissing: tensorboard is not installed.
        NotFound: there is no such sweep.
        RequestError: the folder cannot be written.

    """
    require("tensorboard", "trackers", "tensorboard")
    refuse_own(engine, folder, "--output")
    trials = rounds = without = 0
    for name, ids in trial_ids_by_sweep(engine, sweep).items():
        for done, trial in enumerate(read_trials(engine, ids), start=1):
            progress(name, done, len(ids))
            if not trial.rounds:
                without += 1
                continue
            _write(trial, _event_file(folder, name, trial))
            trials, rounds = trials + 1, rounds + len(trial.rounds)
    return WrittenTrials(trials, rounds, without)


def _event_file(folder: Path, sweep: str, trial: Trial) -> Path:
    """Return the file of a trial. TensorBoard expects the trial's start time in its name."""
    place = folder / safe_name(sweep) / safe_name(trial.name)
    return place / f"events.out.tfevents.{int(trial.began)}.fedsweep"


def _write(trial: Trial, file: Path) -> None:
    """Write the file of a trial.

    A TensorBoard that reads at the same time sees the old file or the new one.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    try:
        make_folder(file.parent)
        # A sync of thousands of files takes longer than another export.
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
    """Return a trial's events in the order of time."""
    from tensorboard.compat.proto import event_pb2

    yield event_pb2.Event(wall_time=trial.began, file_version="brain.Event:2")
    yield event_pb2.Event(wall_time=trial.began, summary=_begin(trial))
    last = trial.began
    for measured in trial.rounds:
        last = measured.at
        yield event_pb2.Event(wall_time=last, step=measured.round, summary=_scalars(measured))
    if trial.result["state"] in _STATUS:
        yield event_pb2.Event(wall_time=last, summary=_end(trial, last))


def _scalars(measured: MeasuredRound) -> Any:
    from tensorboard.compat.proto import summary_pb2

    values = [
        summary_pb2.Summary.Value(tag=TAGS[name], simple_value=value)
        for name, value in measured.values.items()
    ]
    return summary_pb2.Summary(value=values)


def _begin(trial: Trial) -> Any:
    """Return the hyperparameters. The trials of a cell are one group."""
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
