"""`fedsweep launch ray`, on a real Ray of two nodes."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests import walk
from tests.acceptance.command import (
    FEDSWEEP,
    assert_equal_to_calm,
    at_once,
    environment,
    eventually,
    query,
)
from tests.cluster.local_ray import LocalRay, local_ray, processes, variable

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedsweep[cluster]'")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PLAN = """
name = "tiny"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = 40
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.5
snapshot_every = 1
[[grid]]
normalizer = ["bn", "gn"]
seed = [0, 1, 2]
[[grid]]
normalizer = "fixbn"
freeze_round = 20
seed = [0, 1, 2]
"""
TRIALS, ROUNDS = 9, 9 * 40 - 3 * 20
"""Trials, and rounds if each is trained once: FIXBN begins with BN's rounds."""
PASSED = ("--env", walk.FOLDER, "--env", "FEDSWEEP_TEST_ENGINE", "--env", "PYTHONPATH")
PASSWORD = "hunter2xyzzy"


@pytest.fixture(scope="module")
def ray_of_module() -> Iterator[LocalRay]:
    """The Ray of this module."""
    with local_ray() as ray:
        yield ray


@pytest.fixture
def ray(ray_of_module: LocalRay) -> LocalRay:
    """The Ray of this module, with two nodes."""
    ray_of_module.set_nodes(2)
    return ray_of_module


class Study:
    """A sweep whose trials last until `finish`, and its launch."""

    def __init__(self, url: str, folder: Path, ray: LocalRay) -> None:
        self.url, self.folder, self.ray, self.launch = url, folder, ray, ""
        (folder / "plan.toml").write_text(PLAN)
        self.slow = walk.slow_down(folder)
        at_once("plan", str(folder / "plan.toml"), "--db", url)

    def run(self, *arguments: str, code: int = 0, db: str | None = None, **env: str) -> str:
        """Run a command and return its output."""
        variables = environment(FEDSWEEP_LAUNCH_POLL="0.2", **self.slow) | env
        done = subprocess.run(
            [*FEDSWEEP, *arguments, "--db", db or self.url],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    def start(self, workers: str, *more: str, **env: str) -> None:
        """Launch workers."""
        options = ("--workers", workers, "--address", self.ray.address, "--lease", "3", *PASSED)
        out = self.run("launch", "ray", *options, *more, **env)
        self.launch = out.split("launch ")[1].split(":")[0]

    def finish(self) -> None:
        """Let all trials come to their end."""
        walk.speed_up(self.folder)
        eventually(lambda: self.states() == {"finished": TRIALS})
        eventually(lambda: not self.ray.actors("Supervisor") and not self.children())

    def states(self) -> dict[str, int]:
        return dict(query(self.url, "SELECT state, count(*) FROM trials GROUP BY state"))

    def training(self) -> set[str]:
        """Return the workers that have trained a round of a running trial."""
        rows = query(
            self.url,
            "SELECT a.provenance FROM attempts a JOIN trials t ON t.id = a.trial "
            "WHERE a.outcome IS NULL AND t.state = 'running' AND t.final_round > 0",
        )
        return {json.loads(row[0])["launch"]["job"] for row in rows if row[0]}

    def rounds_trained(self) -> int:
        return int(query(self.url, "SELECT sum(rounds_trained) FROM attempts")[0][0])

    def children(self) -> list[psutil.Process]:
        """Return the workers' own processes."""
        found = processes("fedsweep.cli.launched")
        return [p for p in found if self.launch in variable(p, "FEDSWEEP_LAUNCH")]

    def listed(self) -> str:
        return self.run("launch", "list")


@pytest.fixture
def study(sqlite_url: str, tmp_path: Path, ray: LocalRay, walk_in_test: None) -> Iterator[Study]:
    """A study on SQLite. Its launch is canceled after the test."""
    one = Study(sqlite_url, tmp_path, ray)
    yield one
    if one.launch:
        one.run("launch", "stop", one.launch, "--now")
        eventually(lambda: not one.children())


@pytest.fixture
def calm(sqlite_template: Path, tmp_path: Path, walk_in_test: None) -> str:
    """The URL of the same sweep after one worker without a scheduler."""
    url = f"sqlite:///{tmp_path}/calm.db"
    (tmp_path / "calm.toml").write_text(PLAN)
    at_once("plan", str(tmp_path / "calm.toml"), "--db", url)
    at_once("work", "--until-empty", "--device", "cpu", "--db", url)
    return url


@pytest.mark.short
def test_two_workers_train_bitwise_as_one_does(study: Study, calm: str) -> None:
    """Each trains a part of the sweep, and no round is trained twice."""
    study.start("2")
    eventually(lambda: len(study.training()) == 2)
    study.finish()
    assert_equal_to_calm(calm, study.url)
    assert study.rounds_trained() == ROUNDS
    assert "2 ended" in study.listed()
    assert "finished" in study.run("launch", "logs", study.launch)


def test_a_dead_node_loses_nothing(study: Study, calm: str) -> None:
    """Its worker starts again on another node, and the sweep ends bitwise as without the death."""
    study.start("2")
    eventually(lambda: len(study.training()) == 2)
    before = {child.pid for child in study.children()}
    study.ray.remove(study.ray.nodes[0])
    study.ray.set_nodes(2)
    eventually(lambda: len({child.pid for child in study.children()} - before) == 1)
    eventually(lambda: len(study.training()) == 2)
    study.finish()
    assert_equal_to_calm(calm, study.url)


def test_a_killed_supervisor_goes_on(study: Study) -> None:
    """It finds its workers again: none is started twice."""
    study.start("2")
    eventually(lambda: len(study.training()) == 2)
    before = {child.pid for child in study.children()}
    (supervisor,) = study.ray.actors("Supervisor")
    supervisor.kill()
    eventually(lambda: [p for p in study.ray.actors("Supervisor") if p.pid != supervisor.pid])
    assert {child.pid for child in study.children()} == before
    study.finish()
    assert study.rounds_trained() == ROUNDS


def test_a_killed_actor_leaves_no_orphan(study: Study) -> None:
    """Its child gives the trial back and ends, although nothing has told it to."""
    study.start("1")
    eventually(lambda: len(study.training()) == 1)
    (child,) = study.children()
    child.parent().kill()
    eventually(lambda: not child.is_running())
    eventually(study.children)
    study.finish()


def test_stop_drains(study: Study) -> None:
    """All trials are given back, and a later launch trains no round again."""
    study.start("2")
    eventually(lambda: len(study.training()) == 2)
    assert f"{study.launch}: stopped" in study.run("launch", "stop", study.launch)
    assert "running" not in study.states()
    outcomes = Counter(row[0] for row in query(study.url, "SELECT outcome FROM attempts"))
    assert set(outcomes) == {"released"}
    assert not study.children()
    study.start("2")
    study.finish()
    assert study.rounds_trained() == ROUNDS


def test_a_launch_grows_and_shrinks(study: Study) -> None:
    """A second worker starts when more trials can run, and ends when only one can."""
    study.run("sweep", "pause", "tiny")
    one = PLAN.partition("[[grid]]")[0].replace('"tiny"', '"one"') + "lr_schedule = 'cosine'"
    (study.folder / "one.toml").write_text(f"{one}\n[[grid]]\nnormalizer = 'bn'\nseed = 0\n")
    at_once("plan", str(study.folder / "one.toml"), "--db", study.url)
    study.start("1:2")
    eventually(lambda: len(study.training()) == 1)
    assert len(study.children()) == 1
    study.run("sweep", "resume", "tiny")
    eventually(lambda: len(study.training()) == 2)
    study.run("sweep", "pause", "tiny")
    eventually(lambda: len(study.children()) == 1)


def test_a_broken_machine_backs_off(study: Study) -> None:
    """The reason is in the list and in the log."""
    study.start("1", "--device", "cuda")
    eventually(lambda: "the next worker starts in" in study.listed())
    assert "exit code 2" in study.listed()
    assert len(list((study.folder / "launches" / study.launch).glob("*.log"))) <= 3


def test_a_password_is_nowhere(
    postgres_url: str, tmp_path: Path, ray: LocalRay, walk_in_test: None
) -> None:
    """Neither in Ray's files, nor in the launch's folder, nor in a command line."""
    url = make_url(postgres_url).set(password=PASSWORD).render_as_string(hide_password=False)
    study = Study(url, tmp_path, ray)
    study.start("2")
    eventually(lambda: len(study.training()) == 2)
    assert len(ray.actors("Worker")) == 2
    assert [p for p in processes(PASSWORD) if p.pid != os.getpid()] == []
    listed = study.listed() + study.run("launch", "logs", study.launch)
    study.finish()
    assert PASSWORD not in listed
    for folder in (ray.folder, tmp_path / "launches"):
        texts = [f for f in folder.rglob("*") if f.is_file()]
        assert texts
        assert [f for f in texts if PASSWORD.encode() in f.read_bytes()] == []
    assert study.rounds_trained() == ROUNDS


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (["--address", "127.0.0.1:1"], {}, "no Ray answers at 127.0.0.1:1 (Connection refused)"),
        (["--gpus-per-worker", "1.5"], {}, "more than one GPU is a whole number"),
        (["--workers", "3:2"], {}, "3 is more than 2"),
        (["--mem", "lots"], {}, "--mem lots is no size"),
    ],
)
def test_errors_are_one_sentence(
    study: Study, options: list[str], env: dict[str, str], message: str
) -> None:
    out = study.run("launch", "ray", *options, code=2, **env)
    assert message in out
    assert out.count("\n") == 1
    assert not (study.folder / "launches").exists()


def test_a_ray_of_another_version_is_refused(study: Study, monkeypatch: Any) -> None:
    import ray

    monkeypatch.setattr(ray, "__version__", "2.1.0")
    options = ("--address", study.ray.address, "--db", study.url)
    out = at_once("launch", "ray", *options, cwd=study.folder, code=2).stderr
    assert "and this one is Ray 2.1.0 with Python" in out
    assert "install the same versions" in out
