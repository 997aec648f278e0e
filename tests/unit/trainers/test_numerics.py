"""The facts under which results are bitwise equal."""

from __future__ import annotations

import pytest
import torch

from tests.unit.trainers.arms import small
from trainers.numerics import make_deterministic, numerics


def test_a_gpu_s_engine_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rate is a tensor, and the number of threads changes no result there."""
    make_deterministic(1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    cpu, gpu = numerics(small(), "cpu"), numerics(small(), "cuda:0")
    assert (cpu["engine"], cpu["threads"]) == ("seq/1", "1")
    assert (gpu["engine"], gpu["threads"]) == ("seq/2", "")
    assert cpu.keys() == gpu.keys()
