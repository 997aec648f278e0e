"""The messages of `work --notify`, from workers to a real web server."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, fedsweep, query, start
from tests.listener import Listener

pytestmark = pytest.mark.usefixtures("walk")

WORK = ("work", "--device", "cpu", "--until-empty")
DIRECT = {"no_proxy": "127.0.0.1"}


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def diverging(tiny: Path) -> None:
    """Change the tiny sweep: five trials diverge in their first round, and one of bn finishes."""
    text = tiny.read_text().replace("lr = 0.05", "clip_norm = 0").partition("[[grid]]")[0]
    text += '[[grid]]\nnormalizer = "gn"\nlr = 1e25\nseed = [0, 1, 2, 3, 4]\n'
    tiny.write_text(text + '[[grid]]\nnormalizer = "bn"\nlr = 0.05\nseed = 0\n')


@pytest.mark.slow
def test_three_workers_tell_the_end_of_a_sweep_once(
    tiny: Path, store_url: str, listener: Listener
) -> None:
    """Any of the workers may notice the end, on both databases."""
    at_once("plan", str(tiny), "--db", store_url)
    hook = f"{listener.url}/T0/s3cret"
    given = {"FEDSWEEP_DB": store_url, "FEDSWEEP_NOTIFY": hook, **DIRECT}
    workers = [start(*WORK, **given) for _ in range(3)]
    output = [worker.communicate(timeout=480)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3, output
    (content,) = listener.contents()
    assert content["event"] == "finished"
    assert content["text"] == "Sweep tiny is over: 6 of 6 trials finished."
    assert content["counts"]["finished"] == 6
    notices = "SELECT message FROM logs WHERE level = 'notice'"
    assert query(store_url, notices) == [(content["text"],)]


def test_a_burst_and_the_end_are_told_to_each_address(
    tiny: Path, sqlite_url: str, listener: Listener
) -> None:
    """Five trials diverge and one finishes. No other message is sent."""
    diverging(tiny)
    at_once("plan", str(tiny), "--db", sqlite_url)
    hooks = [f"--notify={listener.url}/{path}" for path in ("one", "two")]
    done = at_once(*WORK, "--db", sqlite_url, *hooks, **DIRECT)
    assert "1 trial finished, 5 failed" in done.stdout
    events = Counter(content["event"] for content in listener.contents())
    assert events == {"failures": 2, "finished": 2}


def test_a_dead_address_costs_a_line_and_shows_no_secret(tiny: Path, sqlite_url: str) -> None:
    """Neither the log nor the store has the secret. Every trial is trained as usual."""
    gone = Listener()
    gone.close()
    hook = f"{gone.url.replace('//', '//ann:hunter2@')}/T0/s3cret?key=s3cret"
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "seed=0")
    done = fedsweep(*WORK, "--db", sqlite_url, FEDSWEEP_NOTIFY=hook, **DIRECT)
    assert "3 trials finished, 0 failed" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        f"a notice could not be sent to {gone.url}/…: Connection refused"
    )
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as driver:
        stored = "\n".join(driver.iterdump())
    for secret in ("s3cret", "hunter2", "ann:"):
        assert secret not in done.stdout + done.stderr + stored


def test_an_invalid_address_is_refused_before_any_work(tiny: Path, sqlite_url: str) -> None:
    """The message does not repeat the address."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    refused = at_once(*WORK, "--db", sqlite_url, "--notify", "ftp://s3cret", code=2).stderr
    assert "--notify (or $FEDSWEEP_NOTIFY) is not a web address: write https://host/path" in refused
    assert "s3cret" not in refused
    assert query(sqlite_url, "SELECT DISTINCT state FROM results") == [("queued",)]
