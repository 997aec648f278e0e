"""Engine `walk` of the tests: it must be as exact as a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import walk
from trainers.config import TrainConfig
from trainers.engines import Diverged, Unfit, Unreadable

CONFIG = TrainConfig(
    dataset="digits", model="cnn", normalizer="bn", clients=4, rounds=6, local_steps=2,
    batch_size=8, lr=0.05, alpha=0.5, seed=0, client_accuracy=True, diagnostics=True,
)  # fmt: skip


def changed(**fields: object) -> TrainConfig:
    return TrainConfig(**{**CONFIG.model_dump(exclude_none=True), **fields})


def rounds(config: TrainConfig, state: walk.State | None = None) -> list[walk.Round]:
    return list(walk.run(config, walk.load(config, None), state))


def numbers(walked: list[walk.Round]) -> list[tuple[object, ...]]:
    names = set(walk.Round.__dataclass_fields__) - {"seconds", "state", "weights"}
    return [tuple(getattr(one, name) for name in sorted(names)) for one in walked]


def test_a_walk_resumes_exactly_from_a_snapshot() -> None:
    whole = rounds(CONFIG)
    state = walk.unpack(2, walk.pack(whole[1].state()))
    assert numbers(rounds(CONFIG, state)) == numbers(whole)[2:]


def test_trials_have_equal_numbers_up_to_the_freeze_round() -> None:
    """After it, trials with different freeze rounds have different numbers."""
    trunk = numbers(rounds(CONFIG))
    frozen = [numbers(rounds(changed(normalizer="fixbn", freeze_round=t))) for t in (2, 3, 6)]
    assert [one[:2] for one in frozen] == [trunk[:2]] * 3
    assert frozen[2] == trunk
    assert len({repr(one[5]) for one in frozen}) == 3
    assert numbers(rounds(changed(seed=1)))[0] != trunk[0]


def test_a_state_of_another_trial_is_refused() -> None:
    state = rounds(changed(seed=1))[0].state()
    with pytest.raises(Unfit):
        rounds(CONFIG, state)
    with pytest.raises(Unreadable):
        walk.unpack(1, b"short")


def test_a_large_learning_rate_without_clipping_diverges() -> None:
    with pytest.raises(Diverged, match="the training loss of round 1 is nan"):
        rounds(changed(lr=1e25, clip_norm=0.0))
    assert len(rounds(changed(lr=1e25))) == 6


def test_each_deed_happens_once_in_its_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(walk.FOLDER, str(tmp_path))
    (tmp_path / "fail-3").write_text("a bug")
    walked = walk.run(CONFIG, walk.load(CONFIG, None))
    assert [next(walked).round, next(walked).round] == [1, 2]
    with pytest.raises(RuntimeError, match="a bug"):
        next(walked)
    assert len(rounds(CONFIG)) == 6
    (tmp_path / "fill-1").touch()
    with pytest.raises(MemoryError):
        rounds(CONFIG)
    (tmp_path / "crash-2").write_text("out of paper")
    program = "from tests.unit.test_walk import *; rounds(CONFIG)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -6
    assert b"out of paper" in done.stderr
