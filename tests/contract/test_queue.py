"""The promises of the queue, on every database. The test moves the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.errors import FedsweepError, LeaseLost, Refused
from fedsweep.plans import ClientScore, Round, read_plan
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store import (
    attempt_rows,
    file_index,
    live,
    planning,
    progress,
    round_difference,
    round_rows,
    stops,
    trial_rows,
    trunks,
)
from fedsweep.store.claim import Claim
from fedsweep.store.clock import LONGEST_LEASE
from fedsweep.store.moment import Moment
from fedsweep.store.tables import attempts, client_rounds, rounds, trials
from fedsweep.store.transactions import transaction
from tests.contract.steps import ALICE, BOB, LEASE, at, claimed, measured, outcomes, state, train


@pytest.fixture
def c(store: Engine, tiny: Path) -> Iterator[Connection]:
    """A transaction on a store with the tiny sweep."""
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny).alone())
        yield connection


def diagnosed(number: int) -> Round:
    """A round with everything that can be measured."""
    return replace(
        measured(number),
        test_miou=0.25,
        mean_client_accuracy=0.5,
        worst_client_accuracy=0.1 * number,
        statistics_mismatch=0.125,
        gradient_deviation=1e-17,
        client_drift=1 / 3,
        statistics_mismatch_layers={"layer1.norm": 0.1, "layer2.norm": 1 / 7},
        clients=(ClientScore(0, 11, 0.5), ClientScore(3, 13, 1 / 3)),
    )


def test_trials_are_claimed_by_priority_then_age_each_once(c: Connection) -> None:
    """Six trials, six claims, then none; the raised one first."""
    c.execute(sa.update(trials).where(trials.c.id == 4).values(priority=5))
    found = [claimed(c) for _ in range(6)]
    assert [claim.trial for claim in found] == [4, 1, 2, 3, 5, 6]
    assert queue.claim(c, ALICE, at(0)) is None
    assert {claim.fence for claim in found} == {1}


def test_a_claim_carries_the_configuration_that_was_planned(c: Connection, tiny: Path) -> None:
    """Bit for bit, through JSON and back."""
    planned = read_plan(tiny).trials[0]
    claim = claimed(c)
    assert claim.trial_id == planned.trial_id
    assert type(planned.config)(**claim.config) == planned.config


def test_a_claim_in_a_sweep_s_scope_takes_its_members_alone(c: Connection, tiny: Path) -> None:
    """Other sweeps' trials stay."""
    other = read_plan(tiny, ["seed=9", "normalizer=bn"])
    planning.add_sweep(c, type(other)("other", other.text, other.trials))
    claim = queue.claim(c, ALICE, at(0), sweep="other")
    assert claim is not None
    assert claim.config["seed"] == 9
    assert queue.claim(c, ALICE, at(0), sweep="other") is None
    assert queue.outstanding(c, "other")
    queue.cancel(c, [claim.trial])
    assert not queue.outstanding(c, "other")
    assert queue.outstanding(c)


def test_renewing_holds_a_trial_past_its_first_lease(c: Connection) -> None:
    """Nobody takes it over as long as it is renewed in time."""
    claim = claimed(c)
    for seconds in (10, 20, 30):
        queue.renew(c, claim, at(seconds), lease=LEASE)
        assert queue.rescue(c, at(seconds + 14)) == 0
    assert state(c, claim) == TrialState.RUNNING


def test_an_expired_lease_is_taken_over_with_a_higher_fence(c: Connection) -> None:
    """By the next claim, without anybody's help; the first worker's writes are refused."""
    first = claimed(c)
    c.execute(sa.update(trials).where(trials.c.id != first.trial).values(state="cancelled"))
    assert queue.claim(c, BOB, at(14.9)) is None
    second = claimed(c, BOB, 15.1)
    assert (second.trial, second.fence) == (first.trial, first.fence + 1)
    for write in (
        lambda: queue.renew(c, first, at(16)),
        lambda: queue.finish(c, first),
        lambda: queue.fail(c, first, at(16), FailureKind.ERROR, "late"),
        lambda: queue.release(c, first),
        lambda: queue.lose(c, first, "late"),
    ):
        with pytest.raises(LeaseLost, match="no longer held by attempt 1"):
            write()
    assert outcomes(c, first) == [Outcome.EXPIRED, None]
    assert state(c, second) == TrialState.RUNNING


def test_a_late_worker_keeps_its_trial_if_nobody_took_it(c: Connection) -> None:
    """The fence decides, not the clock."""
    claim = claimed(c)
    queue.renew(c, claim, at(100), lease=LEASE)
    assert state(c, claim) == TrialState.RUNNING


def test_a_late_worker_has_lost_its_trial_once_it_is_queued_again(c: Connection) -> None:
    """Even though nobody has taken it yet: the next attempt may begin at any moment."""
    claim = claimed(c)
    assert queue.rescue(c, at(16)) == 1
    for write in (queue.release, queue.finish):
        with pytest.raises(LeaseLost, match="no longer held by attempt 1"):
            write(c, claim)
    with pytest.raises(LeaseLost):
        queue.renew(c, claim, at(16))
    assert outcomes(c, claim) == [Outcome.EXPIRED]
    assert state(c, claim) == TrialState.QUEUED


def test_more_lost_trials_than_a_rescue_takes_come_back_in_turns(c: Connection) -> None:
    """The longest lost first; a claim rescues too, and takes one of them."""
    c.execute(sa.update(trials).values(state="running", lease_until=1000.0 + trials.c.id, fence=1))
    c.execute(sa.update(trials).values(clock="boot-1"))
    for trial in range(1, 7):
        alice = {"worker": "alice", "host": "h", "pid": 1, "device": "cpu", "started_at": 0.0}
        c.execute(sa.insert(attempts).values(trial=trial, fence=1, **alice))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue.losses, "RESCUE_BATCH", 2)
        assert queue.rescue(c, at(100)) == 2
        waiting = sa.select(trials.c.id).where(trials.c.state == "queued").order_by(trials.c.id)
        assert c.execute(waiting).scalars().all() == [1, 2]
        assert [claimed(c, BOB, 100).trial for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    ended = sa.select(attempts.c.outcome, sa.func.count()).group_by(attempts.c.outcome)
    assert dict(c.execute(ended).all()) == {"expired": 6, None: 6}


def test_another_boot_of_the_machine_ends_every_lease(c: Connection) -> None:
    """Its clock starts again near zero: earlier leases would last for ages."""
    claim = claimed(c)
    assert queue.rescue(c, Moment(5.0, "boot-2")) == 1
    assert state(c, claim) == TrialState.QUEUED


def test_a_finished_trial_has_the_numbers_of_its_rounds(c: Connection) -> None:
    """The last round's accuracy, the earliest best, the totals."""
    claim = claimed(c)
    done = [measured(1, 0.6), measured(2, 0.9), measured(3, 0.9)]
    assert round_rows.add_rounds(c, claim, done) is None
    queue.finish(c, claim)
    row = trial_rows.trial_result(c, claim.trial_id)
    assert row["state"] == TrialState.FINISHED
    assert (row["test_accuracy"], row["test_loss"]) == (0.9, 0.7)
    assert (row["best_test_accuracy"], row["best_round"], row["final_round"]) == (0.9, 2, 3)
    assert (row["bytes_up"], row["bytes_down"], row["seconds"]) == (30, 60, 0.75)
    assert (row["attempts"], row["device"], row["error"]) == (1, "cpu", None)
    assert outcomes(c, claim) == [Outcome.FINISHED]
    assert queue.rescue(c, at(1e6)) == 0


def test_a_trial_cannot_finish_without_all_its_rounds(c: Connection) -> None:
    """Two of three: refused, and still running."""
    claim = claimed(c)
    train(c, claim, 1, 2)
    with pytest.raises(FedsweepError, match="a round is missing"):
        queue.finish(c, claim)
    assert state(c, claim) == TrialState.RUNNING


def test_a_released_trial_is_free_and_waits_for_the_next(c: Connection) -> None:
    """No attempt is counted against it."""
    claim = claimed(c)
    queue.release(c, claim)
    assert outcomes(c, claim) == [Outcome.RELEASED]
    again = claimed(c, BOB)
    assert (again.trial, again.fence) == (claim.trial, 2)
    row = c.execute(sa.select(trials.c.failures, trials.c.losses).where(trials.c.id == 1)).one()
    assert tuple(row) == (0, 0)


def test_a_failure_worth_another_attempt_backs_off(c: Connection) -> None:
    """Not before its delay; then claimable; on another boot at once."""
    claim = claimed(c)
    delay = queue.fail(c, claim, at(0), FailureKind.ERROR, "boom", "Traceback …")
    assert delay is not None
    assert 2.5 <= delay <= 7.5
    c.execute(sa.update(trials).where(trials.c.id != claim.trial).values(state="cancelled"))
    assert queue.claim(c, BOB, at(delay - 0.1)) is None
    assert queue.outstanding(c)
    again = claimed(c, BOB, delay + 0.1)
    queue.fail(c, again, at(10), FailureKind.ERROR, "boom")
    assert queue.claim(c, BOB, Moment(0.0, "boot-2")) is not None


def test_the_third_failure_is_the_last(c: Connection) -> None:
    """The trial stays failed, with the last error."""
    c.execute(sa.update(trials).where(trials.c.id != 1).values(state="cancelled"))
    for number, seconds in enumerate((0, 100, 200), start=1):
        claim = claimed(c, ALICE, seconds)
        delay = queue.fail(c, claim, at(seconds), FailureKind.ERROR, f"boom {number}")
        assert (delay is None) == (number == 3)
    row = trial_rows.trial_result(c, claim.trial_id)
    assert (row["state"], row["failure"], row["error"]) == ("failed", "error", "boom 3")
    assert row["attempts"] == 3


@pytest.mark.parametrize("kind", [FailureKind.DIVERGED, FailureKind.BAD_DATA])
def test_some_failures_are_never_tried_again(kind: FailureKind, c: Connection) -> None:
    """A diverged trial is a result; bad data need a person."""
    claim = claimed(c)
    train(c, claim, 1, 2)
    assert queue.fail(c, claim, at(0), kind, "so it is") is None
    row = trial_rows.trial_result(c, claim.trial_id)
    assert (row["state"], row["failure"], row["final_round"]) == ("failed", kind, 2)
    assert row["test_accuracy"] is None


def test_a_trial_that_loses_three_workers_in_a_row_is_lost(c: Connection) -> None:
    """Without a new round in between."""
    c.execute(sa.update(trials).where(trials.c.id != 1).values(state="cancelled"))
    for number in (1, 2, 3):
        claim = claimed(c, ALICE, number * 100)
        queue.rescue(c, at(number * 100 + 50))
    row = trial_rows.trial_result(c, claim.trial_id)
    assert (row["state"], row["failure"]) == ("failed", "lost")
    assert "3 times in a row" in row["error"]


def alone(c: Connection) -> None:
    """Leave one trial to claim."""
    c.execute(sa.update(trials).where(trials.c.id != 1).values(state="cancelled"))


def losses(c: Connection) -> int:
    return c.execute(sa.select(trials.c.losses).where(trials.c.id == 1)).scalar_one()


def last_error(c: Connection) -> str | None:
    latest = sa.select(attempts.c.error).order_by(attempts.c.id.desc()).limit(1)
    return c.execute(latest).scalar_one()


@pytest.mark.parametrize(
    ("served", "lost", "why"), [(36.0, 1, queue.LEASE_ENDED), (34.0, 0, queue.UNWATCHED)]
)
def test_a_lease_that_ended_in_an_outage_is_no_loss(
    served: float, lost: int, why: str, c: Connection
) -> None:
    """A claim takes the trial over all the same; only who reached the database then can tell."""
    alone(c)
    claim = claimed(c)
    again = queue.claim(c, BOB, at(LEASE + 35), served=served)
    assert again is not None
    assert (again.trial, again.fence, losses(c)) == (claim.trial, 2, lost)
    assert c.execute(sa.select(attempts.c.error).where(attempts.c.fence == 1)).scalar_one() == why


def outlive(c: Connection, number: int) -> Claim:
    """An attempt of which nobody can tell how it ended."""
    claim = claimed(c, ALICE, number * 100)
    queue.rescue(c, at(number * 100 + 50), served=0.0)
    return claim


def test_outages_never_fail_a_trial_but_an_endless_row_of_doubts_does(c: Connection) -> None:
    """A trial that kills its whole machine each time is not claimed for ever."""
    alone(c)
    claim = outlive(c, 0)
    for number in range(1, queue.MAX_DOUBTS - 1):
        outlive(c, number)
    assert (state(c, claim), losses(c)) == ("queued", 0)
    train(c, claimed(c, ALICE, 2000), 1, 1)
    queue.rescue(c, at(2100), served=0.0)
    for number in range(queue.MAX_DOUBTS - 1):
        outlive(c, 30 + number)
    assert state(c, claim) == "queued"
    outlive(c, 90)
    row = trial_rows.trial_result(c, claim.trial_id)
    assert (row["state"], row["failure"]) == ("failed", "lost")
    assert row["error"] == last_error(c)
    assert row["error"].startswith("lost its worker 10 times in a row without a new round")
    queue.retry(c, [claim.trial])
    outlive(c, 91)
    assert state(c, claim) == "queued"


def test_another_boot_is_no_loss(c: Connection) -> None:
    """The worker that takes the trial over cannot tell how the attempt ended."""
    alone(c)
    claimed(c)
    assert queue.rescue(c, Moment(5.0, "boot-2")) == 1
    assert (losses(c), last_error(c)) == (0, queue.RESTARTED)


def test_a_worker_that_comes_back_takes_its_loss_back(c: Connection) -> None:
    """The trial that had failed for it is queued again."""
    alone(c)
    queue.lose(c, claimed(c), "killed")
    queue.lose(c, claimed(c), "killed")
    frozen = claimed(c)
    queue.rescue(c, at(50))
    assert state(c, frozen) == "failed"
    assert queue.come_back(c, frozen)
    assert (state(c, frozen), losses(c), last_error(c)) == ("queued", 2, queue.LEASE_ENDED)
    row = trial_rows.trial_result(c, frozen.trial_id)
    assert (row["failure"], row["error"]) == (None, None)


def test_a_trial_that_freezes_its_machines_is_not_claimed_for_ever(c: Connection) -> None:
    """Each of its workers comes back late."""
    alone(c)
    taken_back = []
    for number in range(queue.MAX_DOUBTS + 2):
        frozen = claimed(c, ALICE, number * 100)
        queue.rescue(c, at(number * 100 + 50))
        taken_back.append(queue.come_back(c, frozen))
    assert taken_back == [True] * (queue.MAX_DOUBTS - 1) + [False] * 3
    assert (state(c, frozen), losses(c)) == ("failed", queue.MAX_LOSSES)


def test_a_worker_that_comes_back_late_changes_nothing(c: Connection) -> None:
    """After a round, a retry or a cancellation, or to a trial that it has released or lost."""
    alone(c)
    killed = claimed(c)
    queue.lose(c, killed, "killed")
    assert not queue.come_back(c, killed)
    frozen = claimed(c)
    queue.rescue(c, at(50))
    assert losses(c) == 2
    getting_on = claimed(c, BOB, 60)
    train(c, getting_on, 1, 1)
    assert not queue.come_back(c, getting_on)
    queue.lose(c, getting_on, "killed")
    queue.lose(c, claimed(c, BOB, 60), "killed")
    assert not queue.come_back(c, frozen)
    assert losses(c) == 1
    held = claimed(c, BOB, 60)
    queue.rescue(c, at(200))
    queue.cancel(c, [held.trial])
    queue.retry(c, [held.trial])
    assert not queue.come_back(c, held)
    assert (state(c, held), losses(c)) == ("queued", 0)


def test_a_new_round_forgives_the_lost_workers_before_it(c: Connection) -> None:
    """A long trial on preempted machines gets on, however often it is interrupted."""
    c.execute(sa.update(trials).where(trials.c.id != 1).values(state="cancelled"))
    for number in range(1, 10):
        claim = claimed(c, ALICE, number * 100)
        if number % 3 == 0:
            train(c, claim, number // 3, number // 3)
        queue.lose(c, claim, "killed")
    assert state(c, claim) == TrialState.QUEUED
    assert set(outcomes(c, claim)) == {Outcome.EXPIRED}


def test_a_round_that_a_released_attempt_stored_forgives_too(c: Connection) -> None:
    """Lost, lost, a new round given back, lost: not three in a row."""
    c.execute(sa.update(trials).where(trials.c.id != 1).values(state="cancelled"))
    for number in (1, 2):
        queue.lose(c, claimed(c, ALICE, number), "killed")
    claim = claimed(c)
    train(c, claim, 1, 1)
    queue.release(c, claim)
    claim = claimed(c)
    queue.lose(c, claim, "killed")
    assert state(c, claim) == TrialState.QUEUED


def test_many_trials_are_cancelled_and_retried_at_once(c: Connection) -> None:
    """More ids than a statement takes parameters."""
    ids = [*range(1, 7), *range(1000, 67_000)]
    assert queue.cancel(c, ids) == 6
    assert queue.retry(c, ids) == 6


def test_a_round_trained_again_is_compared_and_counted_as_lost(c: Connection) -> None:
    """Equal rows stay as they are; a different one is reported, and nothing is written."""
    claim = claimed(c)
    train(c, claim, 1, 2)
    train(c, claim, 2, 3)
    totals = (attempts.c.rounds_trained, attempts.c.rounds_lost, attempts.c.seconds_lost)
    row = c.execute(sa.select(*totals).where(attempts.c.trial == claim.trial)).one()
    assert tuple(row) == (4, 1, 0.25)
    differs = round_rows.add_rounds(c, claim, [measured(3, 0.50000001)])
    assert differs == round_difference.Differs(3, "test_accuracy", 0.5, 0.50000001)
    stored = c.execute(sa.select(sa.func.count()).select_from(rounds)).scalar_one()
    assert stored == 3


def test_a_finished_trial_has_its_clients_numbers_too(c: Connection) -> None:
    """Those of the last round; where they were not measured, NULL."""
    for number, row in enumerate((diagnosed, measured)):
        claim = claimed(c)
        assert round_rows.add_rounds(c, claim, [row(r) for r in (1, 2, 3)]) is None
        queue.finish(c, claim)
        found = trial_rows.trial_result(c, claim.trial_id)
        names = ("test_miou", "mean_client_accuracy", "worst_client_accuracy")
        expected = (None, None, None) if number else (0.25, 0.5, 0.1 * 3)
        assert tuple(found[name] for name in names) == expected


@pytest.mark.parametrize(
    ("change", "column", "values"),
    [
        ({"test_miou": 0.2500000001}, "test_miou", (0.25, 0.2500000001)),
        ({"worst_client_accuracy": None}, "worst_client_accuracy", (0.2, None)),
        ({"client_drift": 0.3333333333333334}, "client_drift", (1 / 3, 0.3333333333333334)),
        (
            {"statistics_mismatch_layers": {"layer1.norm": 0.1}},
            "statistics_mismatch_layers",
            ('{"layer1.norm": 0.1, "layer2.norm": 0.14285714285714285}', '{"layer1.norm": 0.1}'),
        ),
        (
            {"clients": (ClientScore(0, 11, 0.5), ClientScore(3, 13, 0.3))},
            "test_accuracy of client 3",
            (1 / 3, 0.3),
        ),
        ({"clients": (ClientScore(1, 11, 0.5),)}, "test_accuracy of client 1", (None, 0.5)),
    ],
)
def test_every_measure_of_a_round_trained_again_is_compared(
    change: dict[str, object], column: str, values: tuple[object, object], c: Connection
) -> None:
    """Bit for bit, the clients' own included; equal ones pass."""
    claim = claimed(c)
    done = [diagnosed(r) for r in (1, 2)]
    assert round_rows.add_rounds(c, claim, done) is None
    assert round_rows.add_rounds(c, claim, done) is None
    again = [done[0], replace(done[1], **change)]  # type: ignore[arg-type]  # its fields
    assert round_rows.add_rounds(c, claim, again) == round_difference.Differs(2, column, *values)  # type: ignore[arg-type]
    assert c.execute(sa.select(sa.func.count()).select_from(client_rounds)).scalar_one() == 4


def test_other_numerics_replace_the_clients_rows_too(c: Connection) -> None:
    """None of the old ones stays."""
    start = {"numerics": {}, "data_fingerprint": "d"}
    first = claimed(c)
    attempt_rows.start_attempt(c, first, numerics_id="cpu", **start)
    round_rows.add_rounds(c, first, [diagnosed(1), diagnosed(2)])
    queue.release(c, first)
    second = claimed(c, BOB)
    attempt_rows.start_attempt(c, second, numerics_id="gpu", **start)
    assert c.execute(sa.select(client_rounds)).all() == []
    assert round_rows.add_rounds(c, second, [diagnosed(1)]) is None


def test_other_numerics_replace_the_stored_rounds(c: Connection) -> None:
    """A trial's rounds are all of one kind; the old ones count as lost."""
    numerics = {"threads": "1"}
    first = claimed(c)
    attempt_rows.start_attempt(c, first, numerics_id="cpu", numerics=numerics, data_fingerprint="d")
    train(c, first, 1, 2)
    file_index.add_snapshot(c, first, file_index.Snapshot(2, "cpu", "old", 1, "0"))
    queue.release(c, first)
    second = claimed(c, BOB)
    assert (second.numerics_id, second.final_round, second.data_fingerprint) == ("cpu", 2, "d")
    dropped = attempt_rows.start_attempt(
        c, second, numerics_id="gpu", numerics=numerics, data_fingerprint="d"
    )
    assert dropped == ["old"]
    assert trunks.origins(c, second, "cpu") == []
    assert round_rows.add_rounds(c, second, [measured(1, 0.123)]) is None
    found = c.execute(sa.select(rounds.c.round, rounds.c.test_accuracy)).all()
    assert [tuple(row) for row in found] == [(1, 0.123)]
    lost = c.execute(sa.select(attempts.c.rounds_lost).order_by(attempts.c.fence)).scalars().all()
    assert list(lost) == [0, 2]


def test_cancelling_reaches_waiting_and_running_trials(c: Connection) -> None:
    """The running attempt finds out at its next write; a finished trial stays."""
    claim = claimed(c)
    train(c, claim, 1, 3)
    queue.finish(c, claim)
    running = claimed(c)
    assert queue.cancel(c, [1, 2, 3]) == 2
    with pytest.raises(LeaseLost, match="was cancelled"):
        queue.renew(c, running, at(1))
    assert outcomes(c, running) == [Outcome.CANCELLED]
    assert state(c, claim) == TrialState.FINISHED


def test_retrying_queues_failed_and_cancelled_trials_with_a_clean_slate(c: Connection) -> None:
    """Their stored rounds stay, to go on from or be compared with."""
    claim = claimed(c)
    train(c, claim, 1, 1)
    queue.fail(c, claim, at(0), FailureKind.DIVERGED, "inf")
    queue.cancel(c, [2])
    assert queue.retry(c, [1, 2]) == 2
    row = trial_rows.trial_result(c, claim.trial_id)
    assert (row["state"], row["failure"], row["error"]) == ("queued", None, None)
    again = claimed(c, BOB)
    assert (again.trial, again.fence, again.final_round) == (1, 2, 1)


def test_a_retried_trial_need_not_wait_for_what_it_once_backed_off_from(c: Connection) -> None:
    """Cancelled while it backed off, or failed for good after it: the slate is clean."""
    claim = claimed(c)
    assert queue.fail(c, claim, at(0), FailureKind.ERROR, "boom") is not None
    queue.cancel(c, [claim.trial])
    queue.retry(c, [claim.trial])
    assert claimed(c, BOB).trial == claim.trial
    row = c.execute(sa.select(trials.c.failures, trials.c.not_before).where(trials.c.id == 1)).one()
    assert tuple(row) == (0, None)


def test_a_failure_of_a_trial_that_was_taken_over_is_nobody_s(c: Connection) -> None:
    """It is counted neither against the trial nor against the attempt that has it now."""
    first = claimed(c)
    c.execute(sa.update(trials).where(trials.c.id != first.trial).values(state="cancelled"))
    second = claimed(c, BOB, 16)
    with pytest.raises(LeaseLost):
        queue.fail(c, first, at(17), FailureKind.DIVERGED, "inf")
    row = c.execute(sa.select(trials.c.failures, trials.c.failure).where(trials.c.id == 1)).one()
    assert tuple(row) == (0, None)
    assert outcomes(c, second) == [Outcome.EXPIRED, None]


def test_a_finished_trial_cannot_be_retried(c: Connection) -> None:
    """Nor a running or waiting one; and nothing changes."""
    claim = claimed(c)
    train(c, claim, 1, 3)
    queue.finish(c, claim)
    queue.cancel(c, [2])
    for forbidden in (1, 3):
        with pytest.raises(Refused, match="only failed and cancelled"):
            queue.retry(c, [2, forbidden])
    assert c.execute(sa.select(trials.c.state).where(trials.c.id == 2)).scalar_one() == "cancelled"


def test_delays_double_with_a_jitter_that_can_be_repeated() -> None:
    """5, 10, 20 … seconds, half to one and a half of it, never over seven and a half minutes."""
    for failures in range(1, 12):
        delay = queue.retry_delay(FailureKind.ERROR, failures, "abc", max_attempts=99)
        base = min(5.0 * 2 ** (failures - 1), 300.0)
        assert delay is not None
        assert 0.5 * base <= delay < 1.5 * base
        assert delay == queue.retry_delay(FailureKind.ERROR, failures, "abc", max_attempts=99)
    delays = {queue.retry_delay(FailureKind.ERROR, 1, str(i)) for i in range(20)}
    assert len(delays) == 20


def test_counts_of_progress_add_up(c: Connection) -> None:
    """Rounds done and left, and the time they take at the measured pace."""
    claim = claimed(c)
    train(c, claim, 1, 3)
    queue.finish(c, claim)
    claimed(c)
    queue.cancel(c, [6])
    found = progress.sweep_progress(c)[0]
    counts = (found.queued, found.running, found.finished, found.failed, found.cancelled)
    assert counts == (3, 1, 1, 0, 1)
    assert (found.rounds_done, found.rounds_total) == (3, 15)
    assert found.seconds_left == pytest.approx(12 * 0.25)


def test_a_round_s_price_is_that_of_its_own_kind(c: Connection, tiny: Path) -> None:
    """A centralized trial's and one of local epochs' are not those of the same steps."""
    epochs = tiny.read_text().replace("local_steps = 2", "local_epochs = 2")
    plans = [read_plan(tiny, [f"centralized={yes}", "seed=5"]) for yes in ("false", "true")]
    tiny.write_text(epochs)
    plans.append(read_plan(tiny, ["seed=5"]))
    configs = [plan.trials[0].config for plan in plans]
    planning.add_sweep(c, type(plans[1])("other", "", plans[1].trials[:1]))
    claim = queue.claim(c, ALICE, at(0), sweep="other")
    assert claim is not None
    train(c, claim, 1, 3)
    cost = progress.seconds_a_round(c)
    assert [cost.get(progress.cost_key(config)) for config in configs] == [None, 0.25, None]


DAY = 86_400.0


@pytest.mark.parametrize("behind", [DAY, 7 * 3600.0, 1e9])
def test_a_lease_from_a_clock_that_is_ahead_is_free_at_once(
    behind: float,
    c: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No lease lasts so long: the clock was set back, or is of another time namespace."""
    first = claimed(c)
    c.execute(sa.update(trials).where(trials.c.id != first.trial).values(held="pause"))
    now = at(-behind)
    assert queue.next_change(c, now) == 0.0
    monkeypatch.setattr(live, "read_clock", lambda _connection: now)
    assert live.running(c)[0]["lease_left"] == -1.0
    second = queue.claim(c, BOB, now, lease=LEASE)
    assert second is not None
    assert (second.trial, second.fence) == (first.trial, first.fence + 1)
    why = c.execute(sa.select(attempts.c.error).where(attempts.c.fence == 1)).scalar_one()
    assert why == "its lease was set by a clock that is ahead of this one"
    assert [record.message for record in caplog.records] == [
        f"trial {first.trial_id} is taken over: {why}"
    ]
    with pytest.raises(LeaseLost):
        queue.renew(c, first, at(1), lease=LEASE)
    assert queue.next_change(c, now) == LEASE
    assert queue.claim(c, ALICE, now, lease=LEASE) is None


def test_the_longest_lease_is_kept(c: Connection) -> None:
    """A lease of the most seconds that `work --lease` takes is no sign of another clock."""
    claim = queue.claim(c, ALICE, at(0), lease=LONGEST_LEASE)
    assert claim is not None
    assert queue.rescue(c, at(0)) == 0
    assert queue.next_change(c, at(0)) == LONGEST_LEASE
    assert state(c, claim) == TrialState.RUNNING


def test_a_delay_from_a_clock_that_is_ahead_ends_when_nothing_else_is_left(c: Connection) -> None:
    """A worker that finds nothing to claim does not wait for a day."""
    claim = claimed(c)
    assert queue.fail(c, claim, at(DAY), FailureKind.ERROR, "no luck") is not None
    c.execute(sa.update(trials).where(trials.c.id != claim.trial).values(held="pause"))
    assert queue.next_change(c, at(0)) == 0.0
    assert claimed(c, BOB).trial == claim.trial


def test_a_delay_on_this_clock_is_waited_for(c: Connection) -> None:
    """A delay of seconds stays a delay."""
    claim = claimed(c)
    delay = queue.fail(c, claim, at(0), FailureKind.ERROR, "no luck")
    c.execute(sa.update(trials).where(trials.c.id != claim.trial).values(held="pause"))
    assert queue.next_change(c, at(0)) == pytest.approx(delay)
    assert queue.claim(c, BOB, at(0), lease=LEASE) is None


NORMALIZER = (("normalizer", "bn"),)
DATA = (("dataset", "digits"), ("fingerprint", None))


@pytest.mark.parametrize("sweep", [None, "tiny"])
def test_a_claim_passes_over_what_its_machine_lacks(c: Connection, sweep: str | None) -> None:
    """By one field, by several of which one has no value, and by several reasons at once."""
    found = queue.claim(c, ALICE, at(0), sweep=sweep, passed_over=frozenset({NORMALIZER}))
    assert found is not None
    assert found.config["normalizer"] != "bn"
    every = frozenset({DATA, NORMALIZER})
    assert queue.claim(c, ALICE, at(0), sweep=sweep, passed_over=every) is None
    other = frozenset({(("dataset", "digits"), ("fingerprint", "0123456789abcdef"))})
    found = queue.claim(c, BOB, at(0), sweep=sweep, passed_over=other)
    assert found is not None
    assert found.config["normalizer"] == "bn"


@pytest.mark.parametrize("sweep", [None, "tiny"])
def test_a_worker_knows_what_is_needed_and_if_anything_may_come(
    c: Connection, sweep: str | None
) -> None:
    """Trials that run elsewhere may come back; those that are done do not."""
    needs = queue.needs(c, sweep)
    assert {need["normalizer"] for need in needs} == {"bn", "gn", "fixbn"}
    assert {(need["dataset"], need["model"], need["fingerprint"]) for need in needs} == {
        ("digits", "cnn", None)
    }
    assert queue.may_come(c, sweep, [NORMALIZER])
    assert not queue.may_come(c, sweep, [DATA])
    assert queue.may_come(c, sweep, [])
    c.execute(sa.update(trials).values(state="cancelled"))
    assert queue.needs(c, sweep) == []
    assert not queue.may_come(c, sweep, [])


def test_a_death_on_a_machine_that_never_trained_is_not_charged(c: Connection) -> None:
    """However often; its cause is kept, and a charged death counts as before."""
    alone(c)
    for number in range(queue.MAX_DOUBTS + 1):
        stored = queue.lose(c, claimed(c, ALICE, number), "SIGABRT", charged=False)
        assert not stored
    assert (losses(c), last_error(c)) == (0, "SIGABRT")
    queue.lose(c, claimed(c, ALICE, 50), "SIGABRT")
    assert losses(c) == 1
    getting_on = claimed(c, ALICE, 60)
    train(c, getting_on, 1, 1)
    assert queue.lose(c, getting_on, "SIGABRT", charged=False)
    assert losses(c) == 0


def test_a_trial_that_is_given_back_for_a_reason_keeps_it(c: Connection) -> None:
    """With a traceback where there is one; one that was only asked for has none."""
    queue.release(c, claimed(c), "no data here", "Traceback: none")
    ended = sa.select(attempts.c.outcome, attempts.c.error, attempts.c.traceback)
    assert tuple(c.execute(ended).one()) == ("released", "no data here", "Traceback: none")
    again = claimed(c)
    queue.release(c, again)
    latest = ended.where(attempts.c.fence == again.fence, attempts.c.trial == again.trial)
    assert tuple(c.execute(latest).one()) == ("released", None, None)


def note(c: Connection, host: str, lack: stops.Lack | None, reason: str = "no folder") -> None:
    stops.note(c, host=host, pid=1, device="cpu", reason=reason, lack=lack)


def test_stops_are_shown_once_for_each_machine_and_reason(
    c: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest first, for a day; the oldest rows are deleted, secrets are never stored."""
    note(c, "one", None, "postgres://a:hush@b \x00 is away")
    note(c, "two", DATA)
    note(c, "one", None, "postgres://a:hush@b \x00 is away")
    found = {row["host"]: (row["times"], row["lacks"]) for row in stops.recent(c)}
    assert found == {"one": (2, 0), "two": (1, 1)}
    assert "hush" not in str(stops.recent(c))
    monkeypatch.setattr(stops, "KEPT", 2)
    note(c, "three", None)
    assert sorted(row["host"] for row in stops.recent(c)) == ["one", "three"]
    monkeypatch.setattr(stops, "SHOWN_SECONDS", -1.0)
    assert stops.recent(c) == []


def test_data_are_nowhere_if_two_machines_lack_them_and_nobody_loaded_them(c: Connection) -> None:
    """A fingerprint in the plan, or a trial that was trained on them, shows that they exist."""
    note(c, "one", DATA)
    assert not stops.nowhere(c, DATA, "one")
    assert stops.nowhere(c, DATA, "two")
    known = (("dataset", "digits"), ("fingerprint", "0123456789abcdef"))
    note(c, "one", known)
    assert not stops.nowhere(c, known, "two")
    c.execute(sa.update(trials).where(trials.c.id == 1).values(data_fingerprint="seen"))
    assert not stops.nowhere(c, DATA, "two")
