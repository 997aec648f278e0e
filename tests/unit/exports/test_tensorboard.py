"""Exports of event files, read back by TensorBoard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import metadata

from fedsweep.errors import RequestError
from fedsweep.exports import tensorboard
from fedsweep.exports.tensorboard import WrittenTrials
from tests.acceptance.command import environment
from tests.builders import silent

pytestmark = pytest.mark.quick_on("sqlite")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_trial_s_rounds_are_scalars_at_their_steps(filled: Engine, tmp_path: Path) -> None:
    """The rounds of the first bn trial are a quarter of a second apart."""
    written = tensorboard.export(filled, tmp_path / "out", "study", silent)
    assert written == WrittenTrials(trials=12, rounds=34, without=0)
    (folder,) = (tmp_path / "out" / "study").glob("bn-alpha0.5-E2-reset-seed0-*")
    read = EventAccumulator(str(folder)).Reload()
    accuracy = read.Scalars("accuracy/test_accuracy")
    assert [(event.step, event.value) for event in accuracy] == [
        (step, pytest.approx(value)) for step, value in ((1, 0.2), (2, 0.5), (3, 0.8))
    ]
    assert accuracy[2].wall_time - accuracy[0].wall_time == pytest.approx(0.5, abs=1e-3)
    assert read.Scalars("loss/train_loss")[0].value == 1.0
    assert "loss/validation_loss" not in read.Tags()["scalars"]


def test_hyperparameters_are_grouped_by_cell(filled: Engine, tmp_path: Path) -> None:
    """The two seeds of a cell are one group. Each has a status."""
    tensorboard.export(filled, tmp_path, "study", silent)
    groups, statuses = [], []
    for folder in sorted((tmp_path / "study").glob("gn-alpha0.5-E2-global-*")):
        content = EventAccumulator(str(folder)).Reload().summary_metadata
        began = content[metadata.SESSION_START_INFO_TAG].plugin_data.content
        ended = content[metadata.SESSION_END_INFO_TAG].plugin_data.content
        start = metadata.parse_session_start_info_plugin_data(began)
        groups.append(start.group_name)
        assert start.hparams["normalizer"].string_value == "gn"
        assert start.hparams["lr"].number_value == 0.05
        statuses.append(metadata.parse_session_end_info_plugin_data(ended).status)
    assert len(set(groups)) == 1
    assert statuses == [1, 2]  # success, and failure because it diverged


def test_a_second_export_writes_the_same_files(filled: Engine, tmp_path: Path) -> None:
    """They are equal byte for byte, and there are no other files."""
    tensorboard.export(filled, tmp_path / "out", None, silent)
    first = contents(tmp_path / "out")
    tensorboard.export(filled, tmp_path / "out", None, silent)
    assert contents(tmp_path / "out") == first
    assert len(first) == 12


def test_neither_torch_nor_tensorflow_is_imported(tmp_path: Path) -> None:
    """The records of tensorboard are sufficient."""
    code = (
        "import sys\n"
        "from fedsweep.exports import tensorboard as t\n"
        "from fedsweep.exports.trials import MeasuredRound, Trial\n"
        "from pathlib import Path\n"
        "row = {'config': '{}', 'cell_id': 'c', 'state': 'finished'}\n"
        "t._write(Trial('t', row, 1.0, 2.0, [MeasuredRound(1, 1.5, {})]), Path('events'))\n"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=":".join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert event_pb2.Event().ByteSize() == 0
    assert (tmp_path / "events").stat().st_size > 0


def test_a_folder_that_cannot_be_written_is_refused(filled: Engine, tmp_path: Path) -> None:
    """The message names --output."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written .*--output"):
        tensorboard.export(filled, tmp_path / "file", None, silent)
