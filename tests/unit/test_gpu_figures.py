"""The figures of a GPU, measured on a CPU with tiny trials."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import gpu
from tests.benchmarks.workshop import Workshop
from trainers.lane_operations import Loop

TINY = gpu.Machine(
    "cpu",
    lambda _dot: Loop(),
    images=120,
    rounds=2,
    runs=2,
    changes={"model": "cnn", "clients": 2, "local_steps": 2, "batch_size": 4},
)


@pytest.mark.slow
def test_every_figure_of_a_gpu_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each has positive values, and names its device. A cold cache is empty, a warm one is not."""
    seen: list[bool] = []

    def first_round(machine: gpu.Machine, cache: Path) -> float:
        seen.append(any(cache.iterdir()))
        (cache / "kernel").touch()
        return gpu.first_round(machine)

    def flower_says(case: str, count: int, *options: str) -> str:
        assert (case, count, options[:3]) == ("resnet20-e20", 3, ("--device", "cpu", "--actors"))
        return json.dumps({"round_s": [0.5, 0.25]})

    monkeypatch.setattr(gpu, "first_round_in_process", first_round)
    monkeypatch.setattr(gpu, "FLOWER", tmp_path)
    monkeypatch.setattr(gpu, "flower_says", flower_says)
    figures = list(gpu.figures(TINY))
    assert [figure.missing for figure in figures] == [""] * len(gpu.rows(TINY))
    assert all(figure.name.startswith("cpu: ") for figure in figures)
    assert all(len(f.values) >= 2 and min(f.values) > 0 for f in figures)
    assert seen == [False, True, True, False, False]
    rates = [f.values for f in figures if "Flower, " in f.name]
    assert rates == [[2.0, 4.0]] * len(gpu.ACTORS)


def test_a_figure_that_fails_has_its_reason_and_the_next_one_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Flower may not be installed, and a kernel may not compile."""
    monkeypatch.setattr(gpu, "FLOWER", tmp_path / "nowhere")
    rows = [
        gpu.Row("one", "", "s", lambda: gpu.flower_rates(TINY, 4)),
        gpu.Row("two", "", "s", lambda: [1 / 0]),
        gpu.Row("three", "", "s", lambda: [3.0]),
    ]
    monkeypatch.setattr(gpu, "rows", lambda _machine: rows)
    figures = list(gpu.figures(TINY))
    assert figures[0].missing == f"there is no {tmp_path}/nowhere: `make bench` makes it"
    assert figures[1].missing == "ZeroDivisionError: division by zero"
    assert figures[2].values == [3.0]


def test_without_a_gpu_every_figure_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of `make gpu` has the same rows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    figures = list(gpu.parts()["gpu"]())
    assert [f.name for f in figures] == [row.name for row in gpu.rows(gpu.Machine())]
    assert {f.missing for f in figures} == {"there is no CUDA device"}
    assert "not measured: there is no CUDA device" in figures[0].cells()


def test_the_clients_of_flower_train_on_a_named_device() -> None:
    """The loss of a client's round is a number."""
    assert 0 < Workshop("cnn-e5", "cpu").fit(1, 0) < 10


def test_the_part_of_a_gpu_starts_no_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m tests.benchmarks gpu` writes each figure to its table and its file."""
    row = gpu.Row("one", "≤ 2", "s", lambda: [1.0, 3.0])
    monkeypatch.setattr(gpu, "rows", lambda _machine: [row])
    monkeypatch.setattr(gpu.Machine, "missing", lambda _machine: "")
    monkeypatch.setattr(gpu.Machine, "card", lambda _machine: "a card")
    monkeypatch.setattr(benchmarks, "server", None)  # nothing can call it
    monkeypatch.setattr(sys, "argv", ["tests.benchmarks", "gpu"])
    monkeypatch.chdir(tmp_path)
    benchmarks.main()
    assert "a card: one  ≤ 2  2 s  1 – 3  2" in capsys.readouterr().out
    written = json.loads((tmp_path / "bench-results" / "bench.json").read_text())
    assert [figure["values"] for figure in written["figures"]] == [[1.0, 3.0]]
