"""The registry of engines, the choice of an engine, and what `seq` makes of errors."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import walk
from tests.unit.trainers.arms import small
from trainers import compiler, engines, seq, stack
from trainers import progress as progress_file
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.engines import Choice
from trainers.progress import progress


def test_every_trial_is_trained_by_seq() -> None:
    """A worker too asks it, before it has a trial."""
    assert engines.engine_of() is seq
    assert engines.engine_of("seq") is seq


def test_another_package_adds_an_engine_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then, nothing offers it."""
    engines.find.cache_clear()  # another test of this process may have used it
    with pytest.raises(ValueError, match="no installed package offers the engine walk"):
        engines.find("walk")
    walk.install(monkeypatch)
    try:
        assert engines.engine_of() is walk
    finally:
        engines.find.cache_clear()


def test_an_engine_is_asked_for_without_torch() -> None:
    """A worker says what is missing, on a machine on which torch cannot be imported."""
    program = (
        "import sys\n"
        "from fedsweep import verification, worker\n"
        "from fedsweep.execution import attempt\n"
        "from trainers.engines import engine_of\n"
        "engine_of()\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


def chosen(data: Dataset, device: str = "cuda:0", wish: str = "auto", **changes: Any) -> Choice:
    return engines.choose(small(**changes), data, device, wish)


@pytest.mark.parametrize(
    ("device", "changes", "why"),
    [
        ("cpu", {}, "clients train at the same time only on GPUs"),
        ("cuda:0", {"dtype": "float64"}, "float64 has no kernels for several clients"),
        ("cuda:0", {"normalizer": "fedbn"}, "with fedbn, each client keeps its own layer"),
        ("cuda:0", {"normalizer": "silobn"}, "with silobn, each client keeps its own statistics"),
        ("cuda:0", {"batch_size": 300}, "fewer than a batch"),
        ("cuda:0", {"optimizer": "adam"}, "its kernels step by SGD, not by adam"),
        ("cuda:0", {"algorithm": "fedprox"}, "fedprox changes the local steps of each client"),
        ("cuda:0", {"algorithm": "scaffold"}, "scaffold changes the local steps"),
        ("cuda:0", {"algorithm": "feddyn"}, "feddyn changes the local steps"),
    ],
)
def test_a_trial_that_cannot_be_stacked_is_trained_by_seq(
    device: str, changes: dict[str, Any], why: str, digits: Dataset
) -> None:
    """The reason is given. A user who asks for the engine `stack` gets the reason too."""
    choice = chosen(digits, device, **changes)
    assert choice.engine == "seq"
    assert why in choice.why
    with pytest.raises(engines.Unsuitable, match=f"stack cannot train this trial: .*{why}"):
        chosen(digits, device, "stack", **changes)
    assert chosen(digits, device, "seq", **changes) == Choice("seq", "as asked for")


def test_a_trial_of_a_gpu_is_stacked_if_kernels_can_be_compiled(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every normalizer that clients do not keep. Without a compiler, seq trains."""
    monkeypatch.setattr(compiler, "refusal", lambda _device: None)
    for normalizer in ("bn", "gn", "ln", "in", "wn", "none", "ws"):
        assert chosen(digits, normalizer=normalizer).engine == "stack"
    assert chosen(digits, normalizer="fixbn", freeze_round=2).engine == "stack"
    assert chosen(digits, dtype="bfloat16", wish="stack").engine == "stack"
    for algorithm in ("fedadam", "fedyogi"):
        assert chosen(digits, algorithm=algorithm).engine == "stack"
    assert chosen(digits, centralized=True).engine == "stack"
    monkeypatch.setattr(compiler, "refusal", lambda _device: "Triton cannot compile")
    assert chosen(digits) == Choice("seq", "Triton cannot compile")


def test_a_machine_without_the_device_compiles_nothing() -> None:
    """The reason is one line."""
    if not torch.cuda.is_available():
        refusal = compiler.refusal("cuda:0")
        assert refusal is not None
        assert refusal.startswith("Triton cannot compile kernels here (")
        assert "\n" not in refusal


def test_the_numerics_of_stack_name_its_kernels() -> None:
    """The compiler, the precision of products and the version of the kernels are part of them."""
    from trainers import kernels

    for dtype, dot in (("float32", "ieee"), ("bfloat16", "bf16")):
        named = stack.numerics_of(small(dtype=dtype), "cpu", 1)
        assert named["engine"] == "stack/1"
        assert named["dot"] == dot
        assert named["kernels"] == str(kernels.VERSION)
        assert named["triton"]
        assert "kernels" not in seq.numerics_of(small(dtype=dtype), "cpu", 1)


@pytest.mark.parametrize(
    ("error", "full", "broken"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access"), False, True),
        (RuntimeError("a shape does not fit"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_seq_knows_the_errors_of_torch(error: Exception, full: bool, broken: bool) -> None:
    """Exhausted memory is worth another attempt; a broken device is not."""
    assert (seq.is_out_of_memory(error), seq.is_broken_device(error)) == (full, broken)


def test_a_snapshot_that_is_no_safetensors_file_is_unreadable() -> None:
    """The cause is the library's error."""
    with pytest.raises(engines.Unreadable) as unreadable:
        seq.unpack(1, b"nothing that was ever a snapshot")
    assert type(unreadable.value.__cause__).__name__ == "SafetensorError"


@dataclass
class Steps:
    """A counter that tells when it is not 0 anymore."""

    counted: threading.Event = field(default_factory=threading.Event)

    @property
    def steps(self) -> int:
        return int(self.counted.is_set())

    @steps.setter
    def steps(self, _steps: int) -> None:
        self.counted.set()


def test_two_threads_that_load_at_once_get_the_same_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One loads. The other one waits for it, and takes steps in the meantime."""
    loading, go_on, waiting = threading.Event(), threading.Event(), Steps()
    loads: list[str] = []

    def slow_load(name: str, *args: object, **options: object) -> Dataset:
        loads.append(name)
        loading.set()
        assert go_on.wait(60)
        return load(name, *args, **options)

    def second() -> Dataset:
        with progress.counting_in(waiting):
            return seq.load(small(), tmp_path)

    load: Any = datasets.load
    monkeypatch.setattr(datasets, "load", slow_load)
    monkeypatch.setattr(progress_file, "TICK_SECONDS", 0.001)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(seq.load, small(), tmp_path)
        assert loading.wait(60)
        other = threads.submit(second)
        assert waiting.counted.wait(60)
        go_on.set()
        assert first.result() is other.result()
    assert loads == ["digits"]


def test_a_failed_load_does_not_block_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next trial of the process loads the data itself."""

    def failing_load(*_args: object, **_options: object) -> Dataset:
        raise ValueError("no memory")

    monkeypatch.setattr(datasets, "load", failing_load)
    root = tmp_path / "other"  # not loaded by another test of this process
    with pytest.raises(ValueError, match="no memory"):
        seq.load(small(), root)
    monkeypatch.undo()
    with ThreadPoolExecutor() as threads:
        assert threads.submit(seq.load, small(), root).result(60).classes == 10
