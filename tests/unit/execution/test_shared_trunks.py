"""Rounds that T* trials share are trained once, bitwise. The trials are random walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import SweepSpec, read_plan
from fedsweep.states import FailureKind, Hold, Outcome
from fedsweep.store import file_places, planning
from fedsweep.store.artifacts import folder_of
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, snapshots, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.acceptance.command import at_once
from tests.builders import WORKER
from tests.trunks import PLAN, PROTOCOL, Curves, T, measured, plan, trained, work

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("walk", "own_data_folder")]


BN = 'normalizer = "bn"\n'
TWIN = f'[[grid]]\nnormalizer = "fixbn"\nfreeze_round = {T}\n'


@pytest.fixture
def sweep(tmp_path: Path) -> SweepSpec:
    file = tmp_path / "shared.toml"
    file.write_text(PLAN)
    return read_plan(file)


def test_all_freeze_rounds_cost_six_and_a_half_trials(
    store: Engine, sweep: SweepSpec, alone: Curves
) -> None:
    plan(store, sweep)
    assert work(store) == 11
    assert trained(store) == 6.5 * T
    assert measured(store) == alone
    assert integrity.faults(store) == []
    with reading(store) as c:
        assert c.execute(sa.select(snapshots.c.name)).all() == []
        shared = sa.text("SELECT rounds_trained, rounds_shared, rounds_lost FROM ledger")
        assert tuple(c.execute(shared).one()) == (65, 45, 0)


def claim(store: Engine, sweep: str | None = None) -> Claim | None:
    with transaction(store) as c:
        return queue.claim(c, WORKER, read_clock(c), sweep=sweep)


def forks(claims: Sequence[Claim | None]) -> list[int | None]:
    return [claim.fork_round if claim else None for claim in claims]


def run(store: Engine, held: Claim, *, until: int | None = None) -> Outcome | None:
    """Train a claimed trial to its end, or until it is given back after a round."""
    seen = [0]
    end = execute(store, held, Place(), lambda: seen[0] == until, lambda r: seen.insert(0, r.round))
    return end.outcome if end is not None else None


def test_bn_is_the_trunk_and_its_twin_costs_nothing(store: Engine, tmp_path: Path) -> None:
    """FIXBN frozen after the last round is BN. The first one trains, and the other inherits."""
    file = tmp_path / "twins.toml"
    file.write_text(PROTOCOL + "[[grid]]\n" + BN + TWIN)
    plan(store, read_plan(file))
    assert work(store) == 2
    assert trained(store) == T
    one, other = measured(store).values()
    assert one == other
    assert integrity.faults(store) == []


def test_a_twin_that_keeps_weights_trains_its_last_rounds(store: Engine, tmp_path: Path) -> None:
    """A sibling's snapshot does not contain weights. The twin resumes from the last snapshot."""
    file = tmp_path / "twins.toml"
    file.write_text(PROTOCOL + "keep_weights = true\n[[grid]]\n" + BN + TWIN)
    plan(store, read_plan(file))
    assert work(store) == 2
    assert trained(store) == 2 * T
    assert integrity.faults(store) == []


@pytest.mark.parametrize("harm", ["vanish", "damaged"])
def test_lost_snapshots_of_a_trunk_cost_only_rounds(
    store: Engine, sweep: SweepSpec, alone: Curves, harm: str
) -> None:
    """All snapshots of the trunk are lost after its last round."""
    plan(store, sweep)
    carrier = claim(store)
    while carrier is not None and carrier.fork_round < T:
        run(store, carrier)
        carrier = claim(store)
    assert carrier is not None
    run(store, carrier)
    with reading(store) as c:
        home = file_places.home(c, carrier.trial)
        names = list(c.execute(sa.select(snapshots.c.name)).scalars())
    assert len(names) == 9
    folder = folder_of(store.url, home)
    for name in names:
        if harm == "vanish":
            folder.remove(name)
        else:
            folder.write(name, b"nothing that was ever a snapshot")
    work(store)
    assert measured(store) == alone
    assert trained(store) > 6.5 * T
    assert integrity.faults(store) == []


def test_a_sibling_planned_after_its_fork_resumes_from_an_earlier_snapshot(
    store: Engine, sweep: SweepSpec, alone: Curves
) -> None:
    """The trunk is at round 7 when a trial is planned that forks after round 6."""
    late = [t for t in sweep.trials if t.config.freeze_round == 6]
    plan(store, replace(sweep, trials=tuple(t for t in sweep.trials if t not in late)))
    while (held := claim(store)) is not None and held.fork_round < T:
        run(store, held)
    assert held is not None
    assert run(store, held, until=7) is Outcome.RELEASED
    plan(store, replace(sweep, trials=tuple(late)))
    work(store)
    assert measured(store) == alone
    assert trained(store) == 6.5 * T + 1  # round 6 is trained again, from the snapshot of round 5


def test_only_one_trial_at_a_time_trains_the_trunk(store: Engine, sweep: SweepSpec) -> None:
    """A trial without shared rounds runs at the same time. The others wait until their fork."""
    plan(store, sweep)
    held = [claim(store) for _ in range(3)]
    assert forks(held) == [0, T, None]
    carrier = held[1]
    assert carrier is not None
    assert run(store, carrier, until=3) is Outcome.RELEASED
    # The carrier that was given back is claimed again. Trials with an earlier fork run as well.
    claims = [claim(store) for _ in range(5)]
    assert sorted(fork for fork in forks(claims) if fork is not None) == [1, 2, 3, T]
    assert claims[-1] is None


def test_trial_show_names_the_carrier_and_the_shared_rounds(
    sqlite_url: str, sweep: SweepSpec
) -> None:
    """It does so while the trial waits and after it has finished."""
    store = open_store(sqlite_url)
    plan(store, sweep)
    carrier, waiting = (
        next(t.trial_id for t in sweep.trials if t.config.freeze_round == fork) for fork in (T, 4)
    )
    _, held = claim(store), claim(store)
    assert held is not None
    assert held.trial_id == carrier
    output = at_once("trial", "show", waiting, "--db", sqlite_url).stdout
    assert f"waits for rounds that it shares with others: {carrier[:8]} trains them" in output
    run(store, held)
    work(store)
    output = at_once("trial", "show", waiting, "--db", sqlite_url).stdout
    assert "shares 4 rounds with a trial of another freeze round, which trained them" in output
    output = at_once("verify", waiting, "--db", sqlite_url, "--device", "cpu").stdout
    assert "equal" in output
    store.dispose()


def test_a_cancelled_carrier_is_followed_by_another(
    store: Engine, sweep: SweepSpec, alone: Curves
) -> None:
    """The rounds that it has trained are not trained again."""
    plan(store, sweep)
    first = [claim(store), claim(store)]
    assert forks(first) == [0, T]
    assert first[1] is not None
    run(store, first[1], until=4)
    with transaction(store) as c:
        queue.cancel(c, [first[1].trial])
        queue.cancel(c, [first[0].trial if first[0] else 0])
    assert work(store) == 9
    curves = measured(store)
    gone = [trial for trial in alone if len(curves.get(trial, [])) != T]
    assert len(gone) == 2
    assert {k: v for k, v in curves.items() if k not in gone} == {
        k: v for k, v in alone.items() if k not in gone
    }
    assert trained(store) == 9 + sum(range(1, 10))  # the trunk to round 9, and every tail


def test_a_paused_carrier_waits_for_its_successor(store: Engine, sweep: SweepSpec) -> None:
    """When it resumes, it does not train rounds that another trial is training."""
    plan(store, sweep)
    _, carrier = claim(store), claim(store)
    assert carrier is not None
    run(store, carrier, until=2)
    with transaction(store) as c:
        queue.hold(c, [carrier.trial], Hold.PAUSE)
    claimed = [claim(store) for _ in range(4)]
    assert forks(claimed) == [1, 2, 9, None]
    with transaction(store) as c:
        queue.hold(c, [carrier.trial], None)
    assert claim(store) is None
    assert claimed[2] is not None
    run(store, claimed[2])
    assert {one.fork_round for _ in range(7) if (one := claim(store))} == {3, 4, 5, 6, 7, 8, T}
    with reading(store) as c:  # the claim that had to wait left no gap
        fences = c.execute(sa.select(attempts.c.trial, attempts.c.fence).order_by(attempts.c.id))
        begun = sa.select(trials.c.id, trials.c.fence).where(trials.c.fence > 0)
        claims = {row.id: row.fence for row in c.execute(begun)}
        by_trial: dict[int, list[int]] = {}
        for trial, fence in fences:
            by_trial.setdefault(trial, []).append(fence)
    assert by_trial == {t: list(range(1, n + 1)) for t, n in claims.items()}


def test_a_worker_of_one_sweep_does_not_wait_for_another_sweep_s_carrier(
    store: Engine, sweep: SweepSpec
) -> None:
    """Two sweeps share a trunk, and the carrier's sweep has no worker."""
    far = tuple(t for t in sweep.trials if t.config.freeze_round in (9, T))
    near = tuple(t for t in sweep.trials if t.config.freeze_round in (2, 5))
    with transaction(store) as c:
        planning.add_sweep(c, replace(sweep, name="far", trials=far))
        planning.add_sweep(c, replace(sweep, name="near", trials=near))
    held = claim(store, "near")
    assert held is not None
    assert held.fork_round == 5
    assert claim(store, "near") is None
    assert claim(store, "far") is None  # the trunk is being trained
    assert run(store, held) is Outcome.FINISHED
    assert work(store) == 3
    assert trained(store) == 10 + 8 + 5 + 1
    assert integrity.faults(store) == []


def test_a_diverged_trunk_fails_all_later_forks_without_training(
    store: Engine, sweep: SweepSpec
) -> None:
    """Trials that fork earlier do not fail."""
    plan(store, sweep)
    _, carrier = claim(store), claim(store)
    assert carrier is not None
    run(store, carrier, until=4)
    again = claim(store)
    while again is not None and again.trial != carrier.trial:
        again = claim(store)
    assert again is not None
    with transaction(store) as c:
        queue.renew(c, again, read_clock(c))
        queue.fail(c, again, read_clock(c), FailureKind.DIVERGED, "nan in round 5")
    query = sa.select(trials.c.fork_round, trials.c.error).where(trials.c.state == "failed")
    with reading(store) as c:
        errors = {row.fork_round: row.error for row in c.execute(query)}
    assert sorted(errors) == [5, 6, 7, 8, 9, T]
    assert errors[T] == "nan in round 5"
    assert errors[7] == f"its trunk diverged in trial {carrier.trial_id}: nan in round 5"
