"""Time limits and options of Slurm, without a Slurm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedsweep.errors import RequestError
from fedsweep.launch import slurm
from fedsweep.launch.order import Order


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("2-00:00:01", 2 * 86400 + 1),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, seconds: int) -> None:
    """Each of sbatch's six forms."""
    assert slurm.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-1", "1-", "0", "0:00", "2h"])
def test_another_time_limit_is_refused(text: str) -> None:
    """The remedy shows the right spelling."""
    with pytest.raises(RequestError, match=r"--time .* (write 90, 2:00:00|leaves no time)"):
        slurm.seconds_of(text)


def test_a_worker_stops_before_its_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops two minutes before the limit, or after three quarters of a short one."""
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_START_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.hours_left(None) is None
    assert slurm.hours_left(3600) == (3600 - 120) / 3600
    assert slurm.hours_left(60) == 45 / 3600


def test_slurm_tells_a_requeued_job_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end that Slurm tells counts more than the limit of the launch."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setenv("SLURM_JOB_START_TIME", "900")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "4500")
    assert slurm.hours_left(7200) == (4500 - 1000 - 120) / 3600
    monkeypatch.setattr(time, "time", lambda: 4490.0)
    assert slurm.hours_left(7200) == 0


def test_further_options_are_passed_on() -> None:
    """KEY=VALUE is an option, KEY alone a switch; dashes in front and underscores are tidied."""
    given = ["qos=high", "exclusive", "--mail_type=END", "comment=a=b"]
    assert slurm.keys(given) == {
        "qos": "high",
        "exclusive": True,
        "mail-type": "END",
        "comment": "a=b",
    }


@pytest.mark.parametrize("text", ["", "=1", "Qos=high", "qos=a\n#SBATCH --array=9", "array=1-9"])
def test_options_that_a_launch_sets_are_refused(text: str) -> None:
    """Neither a broken name nor a second line nor an option of the launch reaches the script."""
    with pytest.raises(RequestError):
        slurm.keys([text])


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("RUNNING", "running"),
        ("PENDING", "pending"),
        ("COMPLETING", "stopping"),
        ("COMPLETED", "ended"),
        ("CANCELLED", "cancelled"),
        ("NODE_FAIL", "node_fail"),
        ("OUT_OF_MEMORY", "out_of_memory"),
    ],
)
def test_states_of_slurm_are_ours(word: str, state: str) -> None:
    """Waiting, running and ending have one word for all schedulers; other ends keep Slurm's."""
    assert slurm.state_of(word) == state


def test_words_of_slurm_lose_what_is_around_them() -> None:
    """The sentence of sbatch is kept, without its program's name or submitit's traceback."""
    text = (
        "Traceback …\nsbatch: error: invalid partition specified: gpu\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    assert slurm.words(text) == (
        "invalid partition specified: gpu; "
        "Batch job submission failed: Invalid partition name specified"
    )


def test_an_order_becomes_a_command_without_a_secret() -> None:
    """The command has each option of the order once, and neither a database nor a webhook."""
    order = Order(
        launch="3f2a90bc",
        kind="slurm",
        folder="/shared/launches/3f2a90bc",
        sweep="study",
        threads=4,
        artifacts=("/shared/a", "s3://b/c"),
    )
    command = order.command(hours=1.5)
    assert command[:2] == ["work", "--until-empty"]
    pairs = dict(zip(command[2::2], command[3::2], strict=True))
    assert pairs["--sweep"] == "study"
    assert pairs["--threads"] == "4"
    assert pairs["--max-hours"] == "1.500000"
    assert command.count("--artifacts") == 2
    assert "--db" not in command
    assert "--notify" not in command


def test_a_job_without_a_time_limit_takes_the_partition_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The script names no limit, neither submitit's own of five minutes nor one of ours."""
    pytest.importorskip("submitit")
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    order = Order(launch="3f2a90bc", kind="slurm", folder=str(tmp_path / "launches"))
    for workers in (1, 2):
        script = slurm.script(order, slurm.Request(workers=workers))
        assert "#SBATCH --requeue\n" in script
        assert "--time" not in script
        limited = slurm.script(order, slurm.Request(workers=workers, time="2:00"))
        assert "#SBATCH --time=2:00\n" in limited
