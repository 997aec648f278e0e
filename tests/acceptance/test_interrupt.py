"""Ctrl-C at any instant, as a terminal sends it: real processes.

Instants are counted in calls of functions, so that they are the same on every machine.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fedsweep.interrupt import EXIT_CODE, LINE
from tests.acceptance.command import at_once, environment, eventually
from tests.builders import REPOSITORY
from tests.walk import slow_down

PROGRAM = """
import os, sys
calls, at, times = 0, int(sys.argv[1]), int(sys.argv[2])

def count(_frame, event, _argument):
    global calls
    calls += event in ("call", "c_call")
    if at <= calls < at + times and event in ("call", "c_call"):
        os.kill(os.getpid(), 2)

from fedsweep.__main__ import main  # Python's own start comes before our first line
sys.argv = ["fedsweep", *sys.argv[3:]]
sys.setprofile(count)
try:
    main()
finally:
    if not at:
        sys.setprofile(None)
        os.write(2, f"calls={calls}".encode())
"""
"""A program that runs a command, and sends SIGINT at one call or at several in a row."""


def interrupted(*arguments: str, at: int, times: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(at), str(times), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def calls(*arguments: str) -> int:
    done = interrupted(*arguments, at=0, times=0)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.rpartition("calls=")[2])


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr in ("", f"{LINE}\n"), done.stderr
    assert done.returncode in (0, EXIT_CODE)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("calls_of_many", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["help", "plan", "report"])
def test_ctrl_c_at_any_call_is_quiet(
    tiny: Path, sqlite_url: str, command: str, calls_of_many: int
) -> None:
    """Exit 130 and one line at most, from the first import to the last line of output."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    arguments = {
        "help": ("--help",),
        "plan": ("plan", str(tiny), "--db", sqlite_url),
        "report": ("report", "--db", sqlite_url),
    }[command]
    total = calls(*arguments)
    generator = random.Random(command)
    middle = (generator.randrange(total) for _ in range(calls_of_many))
    places = [1, 100, *middle, total - 20]
    codes = []
    for place in places:
        done = interrupted(*arguments, at=place)
        assert_quiet(done)
        codes.append(done.returncode)
    assert codes.count(EXIT_CODE) > len(codes) // 2


@pytest.mark.parametrize(
    "instants", [(0.3, 0.99), pytest.param((0.5, 0.7), marks=pytest.mark.slow)]
)
def test_ctrl_c_many_times_is_as_quiet(
    tiny: Path, sqlite_url: str, instants: tuple[float, ...]
) -> None:
    """A person presses it again before the first one has ended the command."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    arguments = ("status", "--db", sqlite_url)
    total = calls(*arguments)
    for place in instants:
        assert_quiet(interrupted(*arguments, at=int(place * total), times=300))


def test_ctrl_c_in_a_destructor_is_not_lost() -> None:
    """Python only prints an error of a destructor, so the interrupt is raised again later."""
    program = (
        "import os, time\n"
        "from fedsweep import interrupt\n"
        "interrupt.watch()\n"
        "class Late:\n"
        "    def __del__(self): os.kill(os.getpid(), 2); time.sleep(0)\n"
        "def command():\n"
        "    Late()\n"
        "    time.sleep(200)\n"
        "interrupt.run(command)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (EXIT_CODE, f"{LINE}\n")


@pytest.mark.parametrize("error", ["RuntimeError('x')", "ImportError('x')", "SystemExit(1)"])
def test_an_error_that_a_library_made_of_ctrl_c_is_quiet(error: str) -> None:
    """Its message would only be about the interrupt."""
    program = (
        "import os\n"
        "from fedsweep import interrupt\n"
        "interrupt.watch()\n"
        "def command():\n"
        "    try: os.kill(os.getpid(), 2); [0 for _ in range(1000)]\n"
        f"    except BaseException: raise {error}\n"
        "interrupt.run(command)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (EXIT_CODE, "")


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    """A script's background processes ignore it."""
    program = (
        "import signal; from fedsweep import interrupt; interrupt.watch(); "
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    script = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", program]
    subprocess.run(script, check=True)


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize(
    "instants", [(0.0, 0.3, 1.0), pytest.param((0.1, 0.6, 0.9, 1.2), marks=pytest.mark.slow)]
)
def test_ctrl_c_of_a_terminal_reaches_all_of_a_worker(
    tiny: Path, sqlite_url: str, instants: tuple[float, ...]
) -> None:
    """It may come at any instant of the start. No process is left, and nothing is printed.

    Until the worker obeys in its own way, it ends at once; then it stops and exits with 0.
    """
    at_once("plan", str(tiny), "--db", sqlite_url)
    program = "from fedsweep.__main__ import main; print('begun', flush=True); main()"
    arguments = ("work", "--db", sqlite_url, "--device", "cpu", "--slots", "2")
    command = [sys.executable, "-c", program, *arguments]
    # Python leaves a file open if Ctrl-C comes while it reads the file of an import.
    warnings = {"PYTHONWARNINGS": "default,ignore::ResourceWarning"}
    for seconds in instants:
        with subprocess.Popen(
            command,
            env=environment(**warnings, **slow_down(tiny.parent)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "begun\n"
            time.sleep(seconds)  # any instant will do
            os.killpg(worker.pid, signal.SIGINT)
            output, _ = worker.communicate(timeout=300)
        assert "Traceback" not in output
        assert worker.returncode in (0, EXIT_CODE), output
        if worker.returncode:
            assert output == f"{LINE}\n"
        eventually(lambda: is_over(worker.pid))


def is_over(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_console_script_is_the_program() -> None:
    """Its first import is the one that makes Ctrl-C quiet."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fedsweep": "fedsweep.__main__:main"}


def test_ctrl_c_while_a_process_starts_is_neither_lost_nor_met_too_early() -> None:
    """A terminal sends it to both. The parent gets it later, and the child ignores it by then."""
    child = (
        "import signal, sys\n"
        "from fedsweep import interrupt\n"
        "sys.stdin.readline()\n"
        "interrupt.ignore(signal.SIGINT, signal.SIGHUP)\n"
        "print('goes on')\n"
    )
    parent = (
        "import os, signal, subprocess, sys\n"
        "from fedsweep import interrupt\n"
        "heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: heard.append(1))\n"
        "before = interrupt.block(signal.SIGINT, signal.SIGHUP)\n"
        f"command = [sys.executable, '-c', {child!r}]\n"
        "process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "os.killpg(0, signal.SIGINT)\n"
        "assert not heard\n"
        "interrupt.restore(before)\n"
        "assert heard == [1]\n"
        "assert process.communicate(b'\\n') == (b'goes on\\n', None)\n"
        "assert process.returncode == 0\n"
    )
    command = [sys.executable, "-c", parent]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, start_new_session=True
    )
    assert (done.returncode, done.stderr) == (0, "")
