"""Memory that training takes on a CPU; `test_cuda.py` has the GPU's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from trainers import memory

PROGRAM = """
from trainers import memory
memory.begin("cpu")
before = memory.taken("cpu")
held = b"x" * 200_000_000
most = memory.taken("cpu")
del held
after = memory.taken("cpu")
memory.begin("cpu")
print(before, most, after, memory.taken("cpu"))
"""


def test_a_machine_has_what_its_kernel_says() -> None:
    """As psutil has it."""
    assert memory.total("cpu") == psutil.virtual_memory().total


def test_the_most_that_was_held_is_told_until_it_is_forgotten() -> None:
    """Two hundred megabytes, of this process and not of its parent."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    before, most, after, again = map(int, done.stdout.split())
    assert before < 100_000_000
    assert most - before > 190_000_000
    assert after - before > 190_000_000
    assert again < 100_000_000


def test_without_numbers_from_linux_the_process_s_own_count_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No /proc, or another's."""
    (tmp_path / "status").write_text("Name: x\n")
    for status in (tmp_path / "none", tmp_path / "status"):
        monkeypatch.setattr(memory, "STATUS", status)
        monkeypatch.setattr(memory, "FORGET", tmp_path / "no" / "such")
        memory.begin("cpu")
        assert memory.taken("cpu") > 10_000_000
