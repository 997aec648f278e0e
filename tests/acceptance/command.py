"""The command line, in real processes as a user starts it, or in this process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import sqlalchemy as sa
import typer.main

from fedsweep.cli import main
from fedsweep.cli.console import console
from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import reading
from trainers.engines import TEST_ENGINE

FEDSWEEP = [sys.executable, "-m", "fedsweep"]
PATIENCE = 480.0

ROUNDS = 300
LONG = ["--set", "seed=0", "--set", "normalizer=bn", "--set", f"rounds={ROUNDS}"]
"""One trial of several seconds, with a snapshot per second."""

GET_COMMAND = cache(typer.main.get_command)
"""Typer reads the signatures of all commands at each call, which takes most of a short one."""


def environment(**more: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k == TEST_ENGINE or not k.startswith("FEDSWEEP_")
    }
    return kept | {"COLUMNS": "160", "PYTHONWARNINGS": "default"} | more


def fedsweep(
    *arguments: str, cwd: Path | None = None, code: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit code."""
    done = subprocess.run(
        [*FEDSWEEP, *arguments],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def at_once(
    *arguments: str, cwd: Path | None = None, code: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, to prepare a test or to look at its result."""
    out, err = io.StringIO(), io.StringIO()
    console.cache_clear()
    with (
        chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, environment(**env), clear=True),
        mock.patch.object(sys, "argv", ["fedsweep", *arguments]),
        mock.patch.object(typer.main, "get_command", GET_COMMAND),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    done = subprocess.CompletedProcess(
        arguments, ended.value.code or 0, out.getvalue(), err.getvalue()
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start a command in its own session, so that all its processes can be killed."""
    return subprocess.Popen(
        [*FEDSWEEP, *arguments],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    engine = make_engine(url)
    try:
        with reading(engine) as connection:
            return [tuple(row) for row in connection.execute(sa.text(text))]
    finally:
        engine.dispose()


def eventually(happened: Callable[[], Any]) -> Any:
    """Wait until a function returns a true value, and return the value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


RESULTS = (
    "SELECT trial_id, state, final_round, test_accuracy, test_loss, best_round FROM results "
    "ORDER BY trial_id"
)
CURVES = (
    "SELECT trial_id, round, phase, train_loss, test_loss, test_accuracy FROM curves "
    "ORDER BY trial_id, round"
)


def assert_equal_to_calm(calm: str, url: str) -> None:
    """Compare each trial and each round, bit for bit."""
    trials = {row[0] for row in query(url, RESULTS)}
    assert query(url, RESULTS) == [row for row in query(calm, RESULTS) if row[0] in trials]
    assert query(url, CURVES) == [row for row in query(calm, CURVES) if row[0] in trials]


def trainers(pid: int) -> list[psutil.Process]:
    """Return the slot processes of a worker, without the helper of multiprocessing."""
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE, "the worker has ended already"
    return [
        child
        for child in psutil.Process(pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
