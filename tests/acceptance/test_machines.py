"""Real workers on machines that lack something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, environment, query

UNSHARE = "unshare", "--mount", "bash", "-c"
MACHINES = {
    "no home folder and no name": (
        *("unshare", "--user", "--map-user=12345", "--map-group=12345"),
        *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"),
    ),
    "read-only /dev/shm": (*UNSHARE, 'mount -t tmpfs -o ro none /dev/shm && exec "$0" "$@"'),
    "no /proc": (*UNSHARE, 'mount -t tmpfs none /proc && exec "$0" "$@"'),
    "few open files": ("bash", "-c", 'ulimit -n 32 && exec "$0" "$@"'),
    "no stdin": ("bash", "-c", 'exec "$0" "$@" <&-'),
    "an unknown locale and time zone": ("env", "LC_ALL=xx_YY.none", "TZ=No/Where"),
    "a time namespace": ("unshare", "--time", "--boottime", "86400"),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_a_trial_is_trained_and_reported_on_a_machine_that_lacks_something(
    machine: str, sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """It is planned, trained and reported in three processes, and no attempt fails."""
    one = ("--set", "seed=0", "--set", "normalizer=bn")
    report = ("--format", "html", "--output", str(tmp_path / "report.html"))
    for command in (
        ("plan", str(tiny), *one),
        ("work", "--device", "cpu", "--until-empty"),
        ("report", *report),
    ):
        done = subprocess.run(
            [*MACHINES[machine], sys.executable, "-m", "fedsweep", *command],
            env=environment(FEDSWEEP_DB=sqlite_url),
            capture_output=True,
            text=True,
            check=False,
        )
        if "Operation not permitted" in done.stderr:
            pytest.skip(f"{machine}: not to be had here: {done.stderr}")
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    assert query(sqlite_url, "SELECT state, attempts FROM results") == [("finished", 1)]


@pytest.mark.slow
def test_too_few_open_files_are_one_sentence(sqlite_url: str, tiny: Path) -> None:
    """The worker says how many it needs, before it claims a trial."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    work = (sys.executable, "-m", "fedsweep", "work", "--device", "cpu", "--until-empty")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 20 && exec "$0" "$@"', *work],
        env=environment(FEDSWEEP_DB=sqlite_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "needs 30 open files, and 20 are allowed" in done.stderr
    assert query(sqlite_url, "SELECT max(attempts) FROM results") == [(0,)]
