"""Processes that fork from one server, so that each module is imported once for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "fedsweep.execution.attempt",
        "fedsweep.execution.training",
        "fedsweep.queue",
        "fedsweep.search.planner",
        "fedsweep.store.schema",
        "fedsweep.transfer.integrity",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
        "tests.builders",
        "tests.trunks",
        "tests.walk",
    ]
)


def fork(function: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Start a process that calls a function in the environment of this process.

    The server lives as long as the tests, so its own environment may be that of an earlier test.
    """
    process = FORKS.Process(target=_call, args=(dict(os.environ), function, *arguments))
    process.start()
    return process


def _call(environment: dict[str, str], function: Callable[..., object], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
