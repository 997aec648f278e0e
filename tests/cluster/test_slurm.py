"""`fedsweep launch slurm`, on a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from fedsweep.measures import COMPARED
from fedsweep.store import schema
from fedsweep.store.tables import attempts, rounds, trials
from fedsweep.store.transactions import reading
from tests import walk
from tests.acceptance.command import at_once, fedsweep
from tests.cluster.local_slurm import LocalSlurm, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WORKER = ("--device", "cpu", "--mem", "300M", "--partition", "low")
PASSED = ("--env", walk.FOLDER, "--env", "FEDSWEEP_TEST_ENGINE", "--env", "PYTHONPATH")
TRIALS, ROUNDS = 16, 40


class Sweep:
    """A planned sweep and what its database holds."""

    def __init__(self, url: str, plan: Path) -> None:
        self.url, self.folder = url, plan.parent
        self.run("plan", str(plan))

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command in this process and return its output."""
        done = at_once(*arguments, "--db", self.url, cwd=self.folder, code=code)
        return str(done.stdout if code == 0 else done.stderr)

    def launch(self, *arguments: str, workers: int = 2) -> str:
        """Launch workers and return the launch's id."""
        out = self.run("launch", "slurm", *WORKER, *PASSED, "--workers", str(workers), *arguments)
        return out.split("launch ")[1].split(":")[0]

    def ask(self, query: sa.Select[Any]) -> list[Any]:
        """Read from the database."""
        engine = schema.open_store(self.url)
        try:
            with reading(engine) as connection:
                return list(connection.execute(query))
        finally:
            engine.dispose()

    def states(self) -> Counter[str]:
        """Count the trials by state."""
        return Counter(row[0] for row in self.ask(sa.select(trials.c.state)))

    def training(self) -> int:
        """Count the trials that run and have stored a round."""
        begun = trials.c.state == "running", trials.c.final_round > 0
        return len(self.ask(sa.select(trials.c.id).where(*begun)))

    def wait_until_finished(self, seconds: float = 240.0) -> None:
        wait(lambda: self.states() == {"finished": TRIALS}, seconds)

    def trained(self) -> int:
        """Return the rounds that all attempts have trained."""
        return int(self.ask(sa.select(sa.func.sum(attempts.c.rounds_trained)))[0][0])

    def measured(self) -> list[Any]:
        """Return all rounds of all trials, as they are stored."""
        columns = [trials.c.trial_id, rounds.c.round, *(rounds.c[name] for name in COMPARED)]
        query = sa.select(*columns).join(trials, trials.c.id == rounds.c.trial)
        return self.ask(query.order_by(trials.c.trial_id, rounds.c.round))

    def launches_of_attempts(self) -> set[tuple[str, str]]:
        """Return the launch and job of each attempt."""
        stored = [json.loads(row[0]) for row in self.ask(sa.select(attempts.c.provenance))]
        return {(p["launch"]["id"], p["launch"]["job"]) for p in stored}


SHARED_ROUNDS = TRIALS * ROUNDS - 4 * (10 + 20)
"""Rounds of the sweep that are trained if each is trained once: FIXBN begins with BN's."""


@pytest.mark.short
def test_four_workers_train_bitwise_as_one_does(
    slurm: LocalSlurm, store_url: str, plan: Path, deeds: Path, tmp_path: Path
) -> None:
    """An array of four workers stores the same rounds as one worker, and each trains a part."""
    alone = Sweep(f"sqlite:///{tmp_path}/alone.db", plan)
    alone.run("work", "--until-empty", "--device", "cpu")
    walk.slow_down(deeds, 0.02)
    sweep = Sweep(store_url, plan)
    launched = sweep.launch("--threads", "1", workers=4)
    sweep.wait_until_finished()
    wait(lambda: set(slurm.states(launched).values()) == {"COMPLETED"})
    assert sweep.measured() == alone.measured()
    assert sweep.trained() == SHARED_ROUNDS
    jobs = sweep.launches_of_attempts()
    assert {one for one, _ in jobs} == {launched}
    assert len(jobs) > 1


@pytest.mark.short
def test_a_preempted_worker_is_requeued_and_goes_on(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """A job of higher priority takes both nodes. The workers save, are requeued, and end the sweep
    without training a round twice.
    """
    walk.slow_down(deeds)
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.launch()
    wait(lambda: sweep.training() == 2)
    slurm.ask("sbatch", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    wait(lambda: "2 pending" in sweep.run("launch", "list"))
    assert sweep.states()["running"] == 0
    wait(lambda: sweep.training() == 2)
    walk.speed_up(deeds)
    sweep.wait_until_finished()
    assert sweep.trained() == SHARED_ROUNDS
    lines = sweep.run("launch", "logs", launched, "--lines", "500")
    assert "trials are left: requeue the job" in lines
    assert "given back" in lines


def test_a_time_limit_only_interrupts_a_worker(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """A sweep of several minutes ends in jobs of one minute, each requeued, with no round lost."""
    walk.slow_down(deeds, 1.0)
    sweep = Sweep(sqlite_url, plan)
    sweep.launch("--time", "1")

    def starts() -> int:
        query = sa.select(sa.func.count()).where(attempts.c.outcome == "released")
        return int(sweep.ask(query)[0][0])

    wait(lambda: starts() >= 4, 400)
    walk.speed_up(deeds)
    sweep.wait_until_finished(400)
    assert sweep.trained() == SHARED_ROUNDS


def test_a_canceled_worker_loses_nothing(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """`scancel` of one worker gives its trial back, and the other worker ends the sweep."""
    walk.slow_down(deeds)
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.launch()
    wait(lambda: sweep.training() == 2)
    job = next(iter(slurm.states(launched)))
    slurm.ask("scancel", job)
    wait(lambda: sweep.states()["running"] == 1)
    walk.speed_up(deeds)
    sweep.wait_until_finished()
    assert sweep.trained() == SHARED_ROUNDS


def test_a_dead_node_costs_the_rounds_since_its_snapshot_at_most(
    slurm: LocalSlurm, postgres_url: str, plan: Path, deeds: Path, own_data_folder: None
) -> None:
    """A node dies with its slurmd and its processes. Slurm starts its workers elsewhere, and the
    sweep ends with the same numbers.
    """
    walk.slow_down(deeds)
    sweep = Sweep(postgres_url, plan)
    sweep.launch("--lease", "2", "--slurm", "exclusive")
    wait(lambda: sweep.training() == 2)
    slurm.kill_node("n2")
    try:
        wait(lambda: sweep.states()["running"] == 1)
        walk.speed_up(deeds)
        sweep.wait_until_finished()
    finally:
        slurm.start_node("n2")
    assert sweep.trained() <= SHARED_ROUNDS + 2
    expired = sa.select(attempts.c.id).where(attempts.c.outcome == "expired")
    assert len(sweep.ask(expired)) == 1


def test_stop_lets_workers_give_their_trials_back(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """`launch stop` ends all jobs for good. Each round is kept, and the rest can go on."""
    walk.slow_down(deeds)
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.launch()
    wait(lambda: sweep.training() == 2)
    out = sweep.run("launch", "stop", launched[:4])
    assert out.endswith(f"{launched}: stopped\n")
    assert sweep.states()["running"] == 0
    assert set(slurm.states(launched).values()) == {"COMPLETED"}
    assert not (sweep.folder / "launches" / launched / "environment.json").exists()
    walk.speed_up(deeds)
    sweep.run("work", "--until-empty", "--device", "cpu")
    assert sweep.trained() == SHARED_ROUNDS


@pytest.mark.short
def test_a_password_is_nowhere_to_be_read(
    slurm: LocalSlurm, postgres_url: str, plan: Path, deeds: Path, own_data_folder: None
) -> None:
    """Neither scripts, logs, Slurm's description of the jobs, nor the list of processes hold it."""
    password = "s3cret-of-mine"
    walk.slow_down(deeds)
    url = make_url(postgres_url).set(password=password).render_as_string(hide_password=False)
    sweep = Sweep(url, plan)
    hook = f"https://example.invalid/{password}"
    launched = sweep.launch("--notify", hook)
    wait(lambda: sweep.training() == 2)
    jobs = slurm.ask("scontrol", "show", "job", "--details")
    processes = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert launched in jobs
    assert any("submitit" in line for line in processes)
    assert not any(password in line for line in (jobs, *processes))
    assert password not in sweep.run("launch", "list") + sweep.run(
        "launch", "logs", launched, "--lines", "500"
    )
    folder = sweep.folder / "launches" / launched
    sweep.run("launch", "stop", launched)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert not [file for file in files if password.encode() in file.read_bytes()]
    assert folder.stat().st_mode & 0o077 == 0


def test_a_worker_packs_the_trials_of_its_gpu(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--slots auto`, one job trains several trials in one process, on a made-up GPU."""
    walk.install(monkeypatch, "walk_cuda")
    walk.slow_down(deeds, 0.03)
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.run("launch", "slurm", "--mem", "500M", "--device", "cuda", *PASSED)
    sweep.wait_until_finished()
    wait(lambda: "1 ended" in sweep.run("launch", "list"))
    log = sweep.run("launch", "logs", launched.split("launch ")[1][:8], "--lines", "500")
    assert "a trial of cnn takes 200 B: 4 trials fit" in log
    stored = [json.loads(row[0]) for row in sweep.ask(sa.select(attempts.c.provenance))]
    assert all(one["packed"] for one in stored)
    assert sweep.trained() == SHARED_ROUNDS


def test_a_launch_has_no_more_workers_than_trials(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """For 16 trials and 40 workers, 16 are launched; without a trial none is."""
    sweep = Sweep(sqlite_url, plan)
    out = sweep.run("launch", "slurm", *WORKER, *PASSED, "--workers", "40")
    assert "16 trials left: no more workers than that" in out
    assert "16 workers on slurm" in out
    sweep.wait_until_finished()
    out = sweep.run("launch", "slurm", *WORKER, "--workers", "40")
    assert out == "no trial is queued or running: nothing was launched\n"


def test_a_dry_run_prints_the_script_alone(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """The script has the options, and neither a job nor a folder is made."""
    sweep = Sweep(sqlite_url, plan)
    out = sweep.run(
        *("launch", "slurm", *WORKER, "--workers", "3", "--time", "1-2", "--account", "lab"),
        *("--setup", "module load cuda", "--slurm", "qos=high", "--gpus-per-worker", "2"),
        "--dry-run",
    )
    for line in ("array=0-2%3", "time=1-2", "account=lab", "qos=high", "gpus-per-node=2"):
        assert f"#SBATCH --{line}\n" in out
    assert "#SBATCH --requeue\n" in out
    assert "\nmodule load cuda\n" in out
    assert "--time" not in sweep.run("launch", "slurm", *WORKER, "--dry-run")
    assert not (sweep.folder / "launches").exists()
    assert "fedsweep" not in slurm.ask("squeue", "-h", "-o", "%j")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition", "gpu"), "invalid partition specified: gpu"),
        (("--slurm", "licenses=matlab:1"), "Slurm refuses the workers"),
        (("--time", "soon"), "--time soon is no time of Slurm"),
        (("--slurm", "array=1-3"), "use --workers"),
        (("--sweep", "other"), "there is no sweep 'other'"),
        (("--env", "NOT_SET_HERE"), "--env NOT_SET_HERE: this variable is not set here"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, options: tuple[str, ...], words: str
) -> None:
    """Slurm's refusals, and ours, are one sentence with exit code 2; no launch is stored."""
    sweep = Sweep(sqlite_url, plan)
    error = sweep.run("launch", "slurm", *WORKER, *options, code=2)
    assert words in error
    assert error.count("\n") == 1
    assert sweep.run("launch", "list") == "nothing was launched from this database\n"
    assert not [*(sweep.folder / "launches").glob("*")]


def test_a_worker_without_its_device_ends_with_one_sentence(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """Its job fails and is not requeued, and the page's list of machines has the reason."""
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.launch("--device", "cuda:7", workers=1)
    wait(lambda: "1 failed" in sweep.run("launch", "list"))
    log = sweep.run("launch", "logs", launched)
    assert "fedsweep: " in log
    assert "Traceback" not in log
    assert "cuda:7" in sweep.run("status")


def test_a_user_without_permission_is_refused(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A partition that the user may not use is a refusal in Slurm's words."""
    sweep = Sweep(sqlite_url, plan)
    programs = tmp_path / "programs"
    programs.mkdir()
    as_nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups"
    script = f'#!/bin/sh\ncd /\ncat "$1" | {as_nobody} {shutil.which("sbatch")}\n'
    (programs / "sbatch").write_text(script)
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    error = sweep.run("launch", "slurm", "--partition", "closed", code=2)
    assert "Slurm refuses the workers" in error
    assert "not permitted to use this partition" in error
    assert error.count("\n") == 1


def test_without_slurm_the_remedy_is_named(
    sqlite_url: str, plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without Slurm's programs, each command says in one sentence where to run it."""
    sweep = Sweep(sqlite_url, plan)
    monkeypatch.setenv("PATH", str(tmp_path))
    error = sweep.run("launch", "slurm", code=2)
    assert "Slurm is not installed here (sbatch is not on the PATH)" in error
    assert error.count("\n") == 1


def test_a_dead_controller_is_one_sentence(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A slurmctld that does not answer is a refusal in Slurm's words."""
    sweep = Sweep(sqlite_url, plan)
    dead = tmp_path / "slurm.conf"
    text = (slurm.folder / "slurm.conf").read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort"))
    dead.write_text(text.replace(port, "SlurmctldPort=1\nMessageTimeout=2"))
    monkeypatch.setenv("SLURM_CONF", str(dead))
    error = sweep.run("launch", "slurm", *WORKER, code=2)
    assert "Slurm refuses the workers" in error
    assert error.count("\n") == 1


def test_the_command_starts_real_jobs_from_a_shell(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """From a shell, with the default database and folder, the sweep ends; list and logs tell."""
    sweep = Sweep(sqlite_url, plan)
    variables = {
        "SLURM_CONF": os.environ["SLURM_CONF"],
        "FEDSWEEP_DB": sqlite_url,
        walk.FOLDER: str(deeds),
    }
    out = fedsweep("launch", "slurm", *WORKER, *PASSED, cwd=plan.parent, **variables).stdout
    assert "1 worker on slurm" in out
    sweep.wait_until_finished()
    wait(lambda: "1 ended" in fedsweep("launch", "list", cwd=plan.parent, **variables).stdout)
    logged = fedsweep("launch", "logs", out.split("launch ")[1][:8], cwd=plan.parent, **variables)
    assert "16 trials finished, 0 failed" in logged.stdout


def test_a_log_of_an_attempt_is_named(
    slurm: LocalSlurm, sqlite_url: str, plan: Path, deeds: Path
) -> None:
    """`trial show` names the launch, the job and the log of each attempt."""
    (deeds / "fail-3").write_text("on purpose")
    sweep = Sweep(sqlite_url, plan)
    launched = sweep.launch("--max-attempts", "1", workers=1)
    wait(lambda: sweep.states()["finished"] + sweep.states()["failed"] == TRIALS)
    failed = sweep.ask(sa.select(trials.c.trial_id).where(trials.c.state == "failed"))[0][0]
    shown = sweep.run("trial", "show", failed)
    line = next(line for line in shown.splitlines() if f"launch {launched}" in line)
    log = Path(line.split("log ")[1].strip())
    assert failed[:8] in log.read_text()
