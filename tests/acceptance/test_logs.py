"""The logs of trials, as a user reads them, and the last stderr lines of a crashed trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import walk
from tests.acceptance.command import at_once, fedsweep, query
from tests.acceptance.packages import install
from tests.builders import TINY


@pytest.mark.slow
def test_a_crash_in_compiled_code_is_told_and_the_next_attempt_s_warnings_too(
    tmp_path: Path,
) -> None:
    """The log names the package and the line in Python. The layer warns when it is checked, and
    when it is trained.
    """
    install(tmp_path / "site")
    plan = tmp_path / "fragile.toml"
    plan.write_text(TINY.partition("[[grid]]")[0] + '[[grid]]\nnormalizer = "fragile"\n')
    env = {"PYTHONPATH": f"{tmp_path}/site", "FRAGILE_MARKER": f"{tmp_path}/marker"}
    url = f"sqlite:///{tmp_path}/fragile.db"
    fedsweep("plan", str(plan), "--db", url, **env)
    done = fedsweep("work", "--db", url, "--device", "cpu", "--until-empty", **env)
    assert "1 trial finished, 0 failed, 1 lost" in done.stdout
    assert "this layer does nothing" in done.stderr
    assert "out of paper" in done.stderr

    ((trial,),) = query(url, "SELECT trial_id FROM results")
    first = at_once("trial", "logs", trial, "--attempt", "1", "--db", url).stdout
    assert "stderr   out of paper" in first
    assert "stderr   Fatal Python error: Aborted" in first
    assert "fragile.py" in first

    shown = at_once("trial", "show", trial[:8], "--db", url).stdout
    assert "1. expired" in shown
    assert "2. finished" in shown
    assert "fragile 1.5, Python 3" in shown
    log = shown.partition("log of attempt 2\n")[2]
    assert log.count("UserWarning: this layer does nothing") == 2

    output = at_once("trial", "logs", trial, "--db", url).stdout
    assert output.startswith("attempt 1\n")
    assert "\nattempt 2\n" in output
    refused = at_once("trial", "logs", trial, "--attempt", "3", "--db", url, code=2).stderr
    assert f"trial {trial} has no attempt 3: it has 1, 2" in refused


def test_a_failure_says_why_at_once_and_what_follows_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of its end has the reason, and so has `trial show`."""
    walk.install(monkeypatch)
    plan = tmp_path / "wild.toml"
    head = TINY.partition("[[grid]]")[0].replace("lr = 0.05", "lr = 1e30\nclip_norm = 0.0")
    plan.write_text(head + '[[grid]]\nnormalizer = "gn"\n')
    url = f"sqlite:///{tmp_path}/wild.db"
    at_once("plan", str(plan), "--db", url)
    done = fedsweep("work", "--db", url, "--device", "cpu", "--until-empty")
    assert "(diverged: the training loss of round 1 is nan)" in done.stdout
    ((trial,),) = query(url, "SELECT trial_id FROM results")
    shown = at_once("trial", "show", trial, "--db", url).stdout
    assert "1 failure so far (diverged)" in shown
    assert "  diverged  a result: never retried" in shown
    assert "error    diverged: the training loss of round 1 is nan" in shown

    at_once("trial", "retry", trial, "--db", url)
    at_once("trial", "pause", trial, "--db", url)
    shown = at_once("trial", "show", trial, "--db", url).stdout
    assert "held (pause): fedsweep trial resume" in shown
