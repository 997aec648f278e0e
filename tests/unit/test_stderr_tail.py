"""The last words of processes that really die."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsweep import stderr_tail
from tests.acceptance.command import eventually

PROGRAM = """
import ctypes, os, sys, warnings
from pathlib import Path
from fedsweep import stderr_tail
path = Path({path!r})
with stderr_tail.recording(path):
    os.write(2, b"of an earlier trial\\n")
    stderr_tail.trim(path)
    print("to the terminal", file=sys.stderr)
    {death}
"""


def die(path: Path, death: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(path=str(path), death=death)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("death", "code", "words"),
    [
        ("ctypes.string_at(0)", -signal.SIGSEGV, ["Segmentation fault", "string_at"]),
        ("os.write(2, b'out of paper\\n'); os.abort()", -signal.SIGABRT, ["out of paper"]),
        ("1 / 0", 1, ["ZeroDivisionError: division by zero"]),
    ],
)
def test_a_process_that_dies_leaves_the_reason(
    death: str, code: int, words: list[str], tmp_path: Path
) -> None:
    """The file has compiled code's output, the stack or a traceback, and no earlier lines."""
    done = die(tmp_path / "words", death)
    assert done.returncode == code
    lines = stderr_tail.last_words(tmp_path / "words")
    assert all(any(word in line for line in lines) for word in words), lines
    assert "earlier" not in str(lines)
    assert not any(line.startswith("Extension modules") for line in lines)
    assert done.stderr.startswith("to the terminal\n")


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """The same holds for a process that was never started."""
    die(tmp_path / "words", "os.kill(os.getpid(), 9)")
    assert stderr_tail.last_words(tmp_path / "words") == []
    assert stderr_tail.last_words(tmp_path / "none") == []


def test_a_hanging_process_writes_its_stack_and_lives_on(tmp_path: Path) -> None:
    """A process that is stopped by a signal does not answer."""
    path = tmp_path / "words"
    hanging = "import time; Path(sys.argv[1]).touch(); time.sleep(60)"
    program = PROGRAM.format(path=str(path), death=hanging)
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path / "there"])
    try:
        eventually((tmp_path / "there").exists)
        stderr_tail.ask(process.pid, path)
        lines = stderr_tail.last_words(path)
        assert any('"<string>", line 10 in <module>' in line for line in lines), lines
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        stderr_tail.trim(path)
        stderr_tail.ask(process.pid, path)
        assert stderr_tail.last_words(path) == []
    finally:
        process.kill()
        process.wait()


def test_the_number_of_last_words_is_limited(tmp_path: Path) -> None:
    """The file is emptied when it is too long."""
    path = tmp_path / "words"
    die(path, "[os.write(2, b'step %d\\n' % i) for i in range(20000)]")
    lines = stderr_tail.last_words(path)
    assert len(lines) == stderr_tail.LAST_LINES
    assert lines[-1] == "step 19999"
    stderr_tail.trim(path, stderr_tail.LAST_BYTES)
    assert path.stat().st_size == 0


def test_nothing_is_recorded_without_a_stderr(tmp_path: Path) -> None:
    """Descriptor 2 may be another file of the process."""
    program = PROGRAM.format(path=str(tmp_path / "words"), death="sys.exit(7)")
    program = program.replace('print("to the terminal", file=sys.stderr)', "").replace(
        'os.write(2, b"of an earlier trial\\n")', ""
    )
    shell = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, program], check=False)
    assert done.returncode == 7
    assert not (tmp_path / "words").exists()
