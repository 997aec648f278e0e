"""The options of `launch ray`, and the sentences about a Ray that cannot be used, without a Ray."""

from __future__ import annotations

import sys

import pytest

from fedsweep.errors import RequestError
from fedsweep.launch import ray as cluster
from fedsweep.launch.fleet import Size

ONE = Size(0, 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 * 2**30), ("500M", 500 * 2**20), ("500", 500 * 2**20), ("2gb", 2 * 2**31 // 2)],
)
def test_a_size_is_read_as_slurm_reads_it(text: str, size: int) -> None:
    """Units are powers of 1024, and a number alone is in megabytes."""
    assert cluster.size_of(text) == size


@pytest.mark.parametrize("text", ["", "lots", "0", "-1G", "1.5G", "8 G B"])
def test_another_size_is_refused(text: str) -> None:
    """The remedy shows the right spelling."""
    with pytest.raises(RequestError, match="write 8G or 500M"):
        cluster.size_of(text)


def test_a_worker_asks_for_its_resources() -> None:
    """Memory is asked for only if it is given."""
    request = cluster.Request(size=ONE, gpus=0.5, cpus=4, mem="1G")
    assert request.resources() == {"num_cpus": 4, "num_gpus": 0.5, "memory": 2.0**30}
    assert cluster.Request(size=ONE).resources() == {"num_cpus": 1, "num_gpus": 0.0}


@pytest.mark.parametrize("gpus", [1.5, 2.5])
def test_more_than_one_gpu_is_a_whole_number(gpus: float) -> None:
    """Ray would refuse the actor later, without saying so to anybody."""
    with pytest.raises(RequestError, match="more than one GPU is a whole number"):
        cluster.Request(size=ONE, gpus=gpus).check()
    for allowed in (0.0, 0.25, 1.0, 2.0):
        cluster.Request(size=ONE, gpus=allowed).check()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "1e9", "nan"])
def test_a_wrong_poll_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would let a supervisor sleep for ever, or never."""
    monkeypatch.setenv(cluster.POLL, text)
    with pytest.raises(RequestError, match="write seconds between 0 and 3600"):
        cluster.poll_seconds()
    monkeypatch.setenv(cluster.POLL, "0.5")
    assert cluster.poll_seconds() == 0.5


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra has it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(RequestError, match=r"pip install 'fedsweep\[cluster\]'"),
        cluster.connected(None),
    ):
        pass


def test_secrets_are_not_in_the_text_of_a_secret() -> None:
    """Ray shows the arguments of actors in its errors."""
    from fedsweep.launch.actors import Secret

    secret = Secret({"FEDSWEEP_DB": "postgresql://me:hunter2@h/d"})
    assert "hunter2" not in f"{secret!r} {secret!s} {[secret]}"
