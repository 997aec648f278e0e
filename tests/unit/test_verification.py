"""Verification of a trial, on every database."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import verification
from fedsweep.errors import DeviceError, RequestError
from fedsweep.execution import attempt, device, training
from fedsweep.execution.place import Place
from fedsweep.store import trial_record, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.round_difference import Differs
from fedsweep.store.tables import attempts, client_rounds, rounds, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.trial_record import Record
from fedsweep.verification import Field, Otherwise, Step, Verdict, judge
from tests.execution import claim, planned, run

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]

DIVERGING = ("normalizer='gn'", "seed=0", "lr=100.0", "clip_norm=0.0", "rounds=5")
"""Changes that make a trial diverge in round 3."""


def trained(store: Engine, tiny: Path, *changes: str) -> Claim:
    """Train a trial that stops after its first round and resumes from its snapshot."""
    planned(store, tiny, *changes)
    first = claim(store)
    run(store, first, stop_after=1)
    run(store, claim(store))
    return first


def record(store: Engine, claimed: Claim) -> Record:
    with reading(store) as c:
        return trial_record.trial_record(c, claimed.trial)


def verdict(stored: Record, limit: int | None = None, tolerance: float | None = None) -> Verdict:
    count = verification.asked_rounds(stored, limit)
    config = verification.configured(stored)
    return judge(verification.compare(stored, config, Place(), count), tolerance)


def change(store: Engine, table: sa.Table, where: Any, **values: object) -> None:
    with transaction(store) as c:
        assert c.execute(sa.update(table).where(where).values(**values)).rowcount == 1


def test_a_trial_trained_again_is_bitwise_equal(store: Engine, tiny: Path) -> None:
    """Its rounds and its client scores are equal despite a snapshot. Nothing is written."""
    claimed = trained(store, tiny, "client_accuracy=true", "diagnostics=true")
    stored = record(store, claimed)
    assert len(stored.clients[3]) == 4
    assert verdict(stored) == Verdict(equal=True, difference="")
    current = training.numerics_of(verification.configured(stored), Place())
    assert verification.other_numerics(stored, current) == []
    assert verification.same_kind_of_device(stored) == "cpu"
    assert verification.threads_of(stored) == 1
    assert record(store, claimed) == stored


def test_a_gpu_s_rounds_name_no_threads(store: Engine, tiny: Path) -> None:
    """They are trained again with one."""
    stored = record(store, trained(store, tiny))
    on_a_gpu = replace(stored, numerics={**stored.numerics, "threads": ""})
    assert verification.threads_of(on_a_gpu) == 1


def test_a_gpu_trains_again_with_the_engine_of_the_stored_rounds(store: Engine, tiny: Path) -> None:
    """On a CPU, the engine is chosen as always: it has other numbers in any case."""
    stored = record(store, trained(store, tiny))
    for engine, asked in (("stack/1", "stack"), ("seq/2", "seq"), ("walk/1", "auto")):
        on_a_gpu = replace(stored, numerics={**stored.numerics, "engine": engine})
        assert verification.engine_of(on_a_gpu, "cuda:0") == asked
        assert verification.engine_of(on_a_gpu, "cpu") == "auto"


def test_one_changed_bit_is_reported(store: Engine, tiny: Path) -> None:
    """It may be in a round or a client score. Rounds after --rounds are not compared."""
    claimed = trained(store, tiny, "client_accuracy=true")
    sound = record(store, claimed)
    loss = sound.rounds[1]["train_loss"]
    near = math.nextafter(loss, 0.0)
    second = (rounds.c.trial == claimed.trial) & (rounds.c.round == 2)
    change(store, rounds, second, train_loss=near)
    message = f"round 2, train_loss: stored {near!r}, again {loss!r}"
    assert verdict(record(store, claimed)) == Verdict(equal=False, difference=message)
    assert verdict(record(store, claimed), 1).equal
    assert verdict(record(store, claimed), tolerance=1e-9) == Verdict(
        equal=True, difference=f"train_loss of round 2, by {abs(loss - near):.3g}"
    )
    change(store, rounds, second, train_loss=loss)

    c = client_rounds.c
    one = (c.trial == claimed.trial) & (c.round == 3) & (c.client == 2)
    change(store, client_rounds, one, test_accuracy=0.125)
    verdict_of_client = verdict(record(store, claimed), tolerance=1e-9)
    assert verdict_of_client.difference.startswith(
        "round 3, test_accuracy of client 2: stored 0.125, again "
    )

    gap = replace(sound, rounds=[sound.rounds[0], sound.rounds[2]])
    assert "round 2: stored: nothing is stored" in verdict(gap).difference


def test_fields_of_the_numerics_that_differ_are_named(store: Engine, tiny: Path) -> None:
    """A field may also be present on one side only."""
    claimed = trained(store, tiny)
    stored = record(store, claimed)
    numerics = {**stored.numerics, "processor": "an abacus", "beads": "10"}
    of_trial = attempts.c.trial == claimed.trial
    with transaction(store) as c:
        c.execute(sa.update(attempts).where(of_trial).values(numerics=json.dumps(numerics)))
    other = record(store, claimed)
    current = training.numerics_of(verification.configured(other), Place())
    assert verification.other_numerics(other, current) == [
        Field("processor", "an abacus", stored.numerics["processor"]),
        Field("beads", "10", ""),
    ]


def test_a_trial_of_a_gpu_is_verified_on_a_gpu(store: Engine, tiny: Path) -> None:
    """Without a GPU, the error names the remedy."""
    stored = record(store, trained(store, tiny))
    of_gpu = replace(stored, numerics={**stored.numerics, "cuda": "13.0", "processor": "H200"})
    if device.devices("auto") != ["cpu"]:
        assert verification.same_kind_of_device(of_gpu) == "cuda:0"
        return
    with pytest.raises(DeviceError, match="was trained on a GPU \\(H200\\), and there is none"):
        verification.same_kind_of_device(of_gpu)


def test_a_diverged_trial_must_diverge_again_in_the_same_round(store: Engine, tiny: Path) -> None:
    """Its stored rounds are compared too."""
    planned(store, tiny, *DIVERGING)
    claimed = claim(store)
    run(store, claimed)
    stored = record(store, claimed)
    assert stored.error == "the training loss of round 3 is nan"
    assert verification.to_diverge(stored, 2)
    assert not verification.to_diverge(stored, 1)
    assert verdict(stored) == Verdict(equal=True, difference="")
    assert verdict(stored, 1).equal

    tame = replace(stored, config={**stored.config, "lr": 0.01})
    assert not verdict(tame).equal
    assert verdict(tame, tolerance=math.inf).difference == (
        "round 3: stored: the training loss of round 3 is nan; again: it does not diverge"
    )
    later = replace(stored, rounds=[*stored.rounds, {**stored.rounds[1], "round": 3}])
    assert verdict(later).difference == (
        "round 3: stored: it is stored; again: the training loss of round 3 is nan"
    )


def test_a_trial_that_diverged_in_its_first_round_is_verified(store: Engine, tiny: Path) -> None:
    """A trial without stored rounds is refused."""
    planned(store, tiny, *DIVERGING, "lr=1e30")
    claimed = claim(store)
    run(store, claimed)
    stored = record(store, claimed)
    assert stored.rounds == []
    assert verdict(stored) == Verdict(equal=True, difference="")

    planned(store, tiny, "rounds=7")
    waiting = claim(store)
    with pytest.raises(RequestError, match="is running and has no stored rounds"):
        record(store, waiting)


def test_a_trial_that_cannot_be_trained_here_gets_no_verdict(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data differ, or the trainer fails."""
    stored = record(store, trained(store, tiny))
    other = replace(stored, data_fingerprint="0" * 16)
    with pytest.raises(RequestError, match="again here \\(bad_data\\): the data here .* are not"):
        verdict(other)

    def broken(*_: object, **__: object) -> Sequence[object]:
        raise MemoryError

    monkeypatch.setattr("trainers.fedavg.run", broken)
    with pytest.raises(RequestError, match="again here \\(out_of_memory\\): MemoryError"):
        verdict(stored)


def test_the_first_or_the_largest_difference_is_reported() -> None:
    """The first one beyond the tolerance counts. Within it, the largest one is named."""
    measured: Any = None
    near, far = Differs(1, "test_loss", 1.0, 1.25), Differs(2, "train_loss", 1.0, 1.5)
    steps = [Step(measured, (near,)), Step(measured, (far,))]
    assert judge(steps, None) == Verdict(
        equal=False, difference="round 1, test_loss: stored 1.0, again 1.25"
    )
    assert judge(steps, 0.25) == Verdict(
        equal=False, difference="round 2, train_loss: stored 1.0, again 1.5"
    )
    assert judge(steps, 0.5) == Verdict(equal=True, difference="train_loss of round 2, by 0.5")
    assert judge([*steps, Otherwise(3, "a", "b")], math.inf) == Verdict(
        equal=False, difference="round 3: stored: a; again: b"
    )


def test_a_trial_of_the_earlier_recipe_is_not_trained_again(store: Engine, tiny: Path) -> None:
    """Its results stay readable. `work` and `verify` say to run its plan again."""
    planned(store, tiny, "normalizer='gn'", "rounds=1", "alpha=0.001")
    finished, waiting = claim(store), claim(store)
    run(store, finished)
    assert verdict(record(store, finished)).equal
    with transaction(store) as c:
        for claimed, trial_id in ((finished, "e" * 20), (waiting, "f" * 20)):
            same = trials.c.id == claimed.trial
            c.execute(sa.update(trials).where(same).values(trial_id=trial_id))
    old = replace(waiting, trial_id="f" * 20)
    end = attempt.execute(store, old, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert (end.failure, end.again) == ("bad_data", None)
    assert "alpha < 0.01: run its plan again" in str(end.error)
    with reading(store) as c:
        assert trial_rows.trial_result(c, "e" * 20)["state"] == "finished"
    with pytest.raises(RequestError, match="run its plan again, which makes a new trial"):
        verification.configured(record(store, finished))
