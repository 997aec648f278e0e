"""Workers on machines that cannot train. No trial is charged, and the reason is stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import walk
from tests.acceptance.command import at_once, environment, fedsweep, query
from tests.acceptance.packages import FRAGILE, install
from tests.builders import TINY
from tests.image_folders import make_image_folder

DEATHS = {
    "ImportError": 'raise ImportError("libtorch_cpu.so: no such file")',
    "OSError": 'raise OSError("libcudart.so.12: cannot open shared object file")',
    "AttributeError": "import sys; sys.nothing",
    "SystemExit": "raise SystemExit(0)",
    "exit 3": "import os; os._exit(3)",
    "SIGABRT": "import os; os.write(2, b'out of paper\\n'); os.abort()",
}
"""The ways in which the import of a broken torch ends, by the words that a user reads."""
QUICK = "SIGABRT"
"""The death whose test is quick. The tests of the other deaths are slow."""
TRIALS = "SELECT state, attempts, error FROM results"
STOPS = "SELECT reason FROM stops WHERE lacks IS NULL"


def assert_nothing_was_claimed(url: str) -> None:
    assert set(query(url, TRIALS)) == {("queued", 0, None)}


def work(url: str, *more: str, code: int = 1, **env: str) -> subprocess.CompletedProcess[str]:
    return fedsweep("work", "--db", url, "--until-empty", *more, code=code, **env)


def work_at_once(url: str, *more: str, code: int = 1) -> subprocess.CompletedProcess[str]:
    return at_once("work", "--db", url, "--device", "cpu", "--until-empty", *more, code=code)


def broken_torch(place: Path, death: str) -> dict[str, str]:
    """Return the environment of a process that finds this torch first."""
    (place / "torch").mkdir(parents=True)
    (place / "torch" / "__init__.py").write_text(death)
    return {"PYTHONPATH": str(place)}


@pytest.mark.parametrize(
    "death",
    [pytest.param(death, marks=() if death == QUICK else pytest.mark.slow) for death in DEATHS],
)
def test_a_torch_that_cannot_be_imported_fails_no_trial(
    death: str, sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """The worker claims nothing, ends with exit 1, and leaves its reason in the database."""
    env = broken_torch(tmp_path / "site", DEATHS[death])
    at_once("plan", str(tiny), "--db", sqlite_url)
    done = work(sqlite_url, "--device", "cpu", **env)
    assert_nothing_was_claimed(sqlite_url)
    ((reason,),) = query(sqlite_url, STOPS)
    assert death in reason
    assert "out of paper" in reason or death != "SIGABRT"
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    shown = at_once("status", "--db", sqlite_url).stdout
    assert "(cpu) stopped" in shown
    assert death in " ".join(shown.split())


@pytest.mark.parametrize("death", ["ImportError", "SIGABRT"])
def test_a_device_that_cannot_be_looked_for_is_one_sentence(
    death: str, sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """By default a worker asks torch for GPUs."""
    env = broken_torch(tmp_path / "site", DEATHS[death])
    at_once("plan", str(tiny), "--db", sqlite_url)
    done = work(sqlite_url, code=2, **env)
    assert done.stderr.count("\n") == 1
    assert "which cannot be imported here" in done.stderr
    assert_nothing_was_claimed(sqlite_url)
    assert len(query(sqlite_url, STOPS)) == 1


@pytest.mark.slow
def test_too_little_memory_for_an_import_fails_no_trial(sqlite_url: str, tiny: Path) -> None:
    """Compiled code ends the process. Another machine trains all trials."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    command = (sys.executable, "-m", "fedsweep", "work", "--device", "cpu", "--until-empty")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 3000000 && exec "$0" "$@"', *command],
        env=environment(FEDSWEEP_DB=sqlite_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert_nothing_was_claimed(sqlite_url)
    assert len(query(sqlite_url, STOPS)) == 1
    work(sqlite_url, "--device", "cpu", code=0)
    assert set(query(sqlite_url, TRIALS)) == {("finished", 1, None)}


def images_planned(url: str, tiny: Path, *more: str) -> None:
    changes = ("dataset=imagefolder", "normalizer=bn", "rounds=1")
    sets = [word for change in changes for word in ("--set", change)]
    at_once("plan", str(tiny), "--db", url, *sets, *more)


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize("planned_with_data", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_wrong_data_folder_on_one_machine_fails_no_trial(
    planned_with_data: bool, sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """The machine with the images trains them all afterwards."""
    right = str(make_image_folder(tmp_path / "right"))
    images_planned(sqlite_url, tiny, *(("--data", right) if planned_with_data else ()))
    for wrong in ((), ("--data", str(tmp_path / "nowhere"))):
        done = work_at_once(sqlite_url, *wrong)
        assert "nothing that is left in scope can be trained here" in done.stderr
        assert "point --data" in done.stderr
        assert_nothing_was_claimed(sqlite_url)
    assert "point --data" in " ".join(at_once("status", "--db", sqlite_url).stdout.split())
    work_at_once(sqlite_url, "--data", right, code=0)
    assert set(query(sqlite_url, TRIALS)) == {("finished", 1, None)}


def test_other_images_than_planned_cost_no_trial_an_attempt(
    sqlite_url: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial is claimed and given back with the reason. The others are not claimed.

    The engine of training looks at the other images. Afterwards walks finish all trials.
    """
    right = str(make_image_folder(tmp_path / "right"))
    other = str(make_image_folder(tmp_path / "other", each=28))
    images_planned(sqlite_url, tiny, "--data", right)
    done = work_at_once(sqlite_url, "--data", other)
    assert "point --data at the right folder" in done.stderr
    ended = query(sqlite_url, "SELECT outcome, failure, error FROM attempts")
    assert [row[:2] for row in ended] == [("released", None)]
    assert "are not those that the trial was planned for" in ended[0][2]
    charged = query(sqlite_url, "SELECT sum(failures), sum(losses) FROM trials")
    assert charged == [(0, 0)]
    walk.install(monkeypatch)
    work_at_once(sqlite_url, "--data", right, code=0)
    assert {row[0] for row in query(sqlite_url, TRIALS)} == {"finished"}


@pytest.mark.usefixtures("walk_in_test")
def test_a_machine_without_a_data_set_trains_what_needs_none(
    sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """It passes over the images with a message, and stops when no other trial is left."""
    images_planned(sqlite_url, tiny)
    tiny.write_text(TINY.replace('"tiny"', '"digits"'))
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "rounds=1")
    done = work_at_once(sqlite_url)
    assert "passing over trials" in done.stderr
    counts = "SELECT dataset, state, count(*), max(attempts) FROM results GROUP BY 1, 2"
    assert sorted(query(sqlite_url, counts)) == [
        ("digits", "finished", 6, 1),
        ("imagefolder", "queued", 2, 0),
    ]


DEADLY = FRAGILE.replace("if not marker.exists():", "if True:")
"""A normalizer of another package that aborts the process at each first batch."""


def deadly_plan(tmp_path: Path, normalizers: list[str]) -> tuple[Path, dict[str, str]]:
    install(tmp_path / "site")
    (tmp_path / "site" / "fragile.py").write_text(DEADLY)
    plan = tmp_path / "deadly.toml"
    head = TINY.partition("[[grid]]")[0]
    plan.write_text(f"{head}[[grid]]\nnormalizer = {json.dumps(normalizers)}\nseed = [0, 1]\n")
    env = {"PYTHONPATH": f"{tmp_path}/site", "FRAGILE_MARKER": f"{tmp_path}/marker"}
    return plan, env


@pytest.mark.slow
def test_trials_that_kill_their_workers_are_lost_and_the_others_finish(
    sqlite_url: str, tmp_path: Path
) -> None:
    """A worker that has trained is a witness against them."""
    plan, env = deadly_plan(tmp_path, ["fragile", "bn"])
    fedsweep("plan", str(plan), "--db", sqlite_url, **env)
    work(sqlite_url, "--device", "cpu", code=0, **env)
    ends = "SELECT normalizer, state, failure FROM results ORDER BY 1"
    assert query(sqlite_url, ends) == [
        *[("bn", "finished", None)] * 2,
        *[("fragile", "failed", "lost")] * 2,
    ]
    first = query(sqlite_url, "SELECT error FROM attempts ORDER BY id LIMIT 1")
    assert first == [("its trainer died (SIGABRT): out of paper",)]
    assert query(sqlite_url, STOPS) == []


@pytest.mark.slow
def test_a_worker_that_never_trained_is_no_witness_against_a_trial(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Three deaths in a row before a first round stop it. No trial is charged."""
    plan, env = deadly_plan(tmp_path, ["fragile"])
    fedsweep("plan", str(plan), "--db", sqlite_url, **env)
    done = work(sqlite_url, "--device", "cpu", **env)
    reason = "slot 0 keeps dying before a trial's first round (SIGABRT: out of paper)"
    assert reason in done.stderr
    assert query(sqlite_url, STOPS) == [(reason,)]
    counts = "SELECT state, sum(failures), sum(losses) FROM trials GROUP BY state"
    assert query(sqlite_url, counts) == [("queued", 0, 0)]
    errors = set(query(sqlite_url, "SELECT outcome, error FROM attempts"))
    assert errors == {("expired", "its trainer died (SIGABRT): out of paper")}


RAISING = (
    FRAGILE.partition("class Layer")[0]
    + """
class Layer(nn.Identity):
    def forward(self, x):
        raise OSError("this machine has a cold")

FRAGILE = Normalizer(lambda channels, config: Layer())
"""
)


@pytest.mark.slow
def test_errors_before_the_first_round_stop_a_worker_that_never_trained(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Each attempt keeps its error and its traceback, and costs its trial nothing."""
    plan, env = deadly_plan(tmp_path, ["fragile"])
    (tmp_path / "site" / "fragile.py").write_text(RAISING)
    fedsweep("plan", str(plan), "--db", sqlite_url, **env)
    done = work(sqlite_url, "--device", "cpu", **env)
    assert "3 attempts in a row failed on cpu before their first round" in done.stderr
    assert "this machine has a cold" in query(sqlite_url, STOPS)[0][0]
    counts = "SELECT state, sum(failures), sum(losses) FROM trials GROUP BY state"
    assert query(sqlite_url, counts) == [("queued", 0, 0)]
    ends = query(sqlite_url, "SELECT outcome, error, traceback FROM attempts")
    assert len(ends) == 3
    assert {row[0] for row in ends} == {"released"}
    assert all("this machine has a cold" in row[1] for row in ends)
    assert all("Traceback" in row[2] for row in ends)
