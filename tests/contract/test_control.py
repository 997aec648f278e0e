"""How people hold, cancel, rank and limit what is queued, on every database; time by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.actions.plan import add_within
from fedsweep.actions.sweep import cancel_within
from fedsweep.errors import LeaseLost, NotFound, Refused
from fedsweep.plans import Budget, SweepSpec, TrialSpec
from fedsweep.states import FailureKind, Hold, Outcome, TrialState
from fedsweep.store import sweep_rows, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.schema import open_store
from fedsweep.store.tables import sweeps, trials
from tests import postgres
from tests.contract.steps import (
    ALICE,
    BOB,
    LEASE,
    ROUNDS,
    at,
    claimed,
    config,
    outcomes,
    state,
    train,
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def empty_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A store that stays empty, on each database."""
    with ExitStack() as databases:
        url = f"sqlite:///{tmp_path_factory.mktemp('store')}/fedsweep.db"
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_server")
            url = databases.enter_context(postgres.database(server, postgres.EMPTY))
        engine = open_store(url, create=True)
        yield engine
        engine.dispose()


@pytest.fixture
def c(empty_store: Engine) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with (
        empty_store.connect().execution_options(writes=True) as connection,
        connection.begin() as t,
    ):
        yield connection
        t.rollback()


def plan(
    c: Connection, name: str, *seeds: int, priority: int = 0, budget: Budget | None = None
) -> list[int]:
    """Plan a sweep of one trial a seed, as `fedsweep plan` does; returns their rows, in order."""
    specs = tuple(TrialSpec.of(config(seed)) for seed in seeds)
    add_within(c, SweepSpec(name, f"seeds {seeds}", specs, budget), priority)
    return [trial_rows.find_trial(c, spec.trial_id)[0] for spec in specs]


def cancel_sweep(c: Connection, name: str) -> int:
    """As `fedsweep sweep cancel` does."""
    return cancel_within(c, name).cancelled


def held(c: Connection) -> dict[int, str | None]:
    """Why each trial is held, by seed."""
    return dict(c.execute(sa.select(trials.c.seed, trials.c.held)).all())


def states(c: Connection) -> dict[int, str]:
    """Each trial's state, by seed."""
    return dict(c.execute(sa.select(trials.c.seed, trials.c.state)).all())


def taken(c: Connection, sweep: str | None = None, seconds: float = 0) -> list[int]:
    """The seeds of all that can be claimed, in order."""
    found = []
    while (claim := queue.claim(c, ALICE, at(seconds), lease=LEASE, sweep=sweep)) is not None:
        found.append(int(claim.config["seed"]))
    return found


def gives_back(c: Connection, claim: Claim) -> bool:
    return queue.renew(c, claim, at(0), lease=LEASE).give_back


@pytest.mark.parametrize("why", [Hold.PAUSE, Hold.DRAIN, Hold.BUDGET])
def test_nothing_of_a_held_sweep_is_claimed_until_it_is_resumed(why: Hold, c: Connection) -> None:
    """Each kind of hold does so, for claims of the sweep and for claims of any sweep."""
    plan(c, "a", 0, 1)
    queue.hold_sweep(c, "a", why)
    assert held(c) == {0: why, 1: why}
    assert taken(c) == taken(c, "a") == []
    queue.hold_sweep(c, "a", None)
    assert held(c) == {0: None, 1: None}
    assert taken(c, "a") == [0, 1]


def test_a_trial_that_another_free_sweep_has_is_claimed_all_the_same(c: Connection) -> None:
    """In that sweep's scope and in the held one's, whichever planned it first."""
    plan(c, "a", 0, 1, 2, 3)
    plan(c, "b", 2, 3, 4)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    assert held(c) == {0: "pause", 1: "pause", 2: None, 3: None, 4: None}
    assert taken(c, "a") == [2, 3]
    queue.hold_sweep(c, "b", Hold.PAUSE)
    queue.hold_sweep(c, "a", None)
    assert held(c) == {0: None, 1: None, 2: None, 3: None, 4: "pause"}
    assert taken(c) == [0, 1]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (Hold.PAUSE, Hold.DRAIN, Hold.DRAIN),
        (Hold.BUDGET, Hold.DRAIN, Hold.DRAIN),
        (Hold.PAUSE, Hold.BUDGET, Hold.BUDGET),
        (Hold.PAUSE, Hold.CANCEL, Hold.PAUSE),
    ],
)
def test_the_mildest_of_several_reasons_holds(
    one: Hold, other: Hold, together: Hold, c: Connection
) -> None:
    """A drained sweep lets its running trial end, despite another sweep's budget or pause."""
    plan(c, "a", 0)
    plan(c, "b", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", one)
    assert not gives_back(c, claim)
    queue.hold_sweep(c, "b", other)
    assert held(c) == {0: together}
    assert gives_back(c, claim) == (together is not Hold.DRAIN)


def test_a_trial_s_own_wish_beats_its_sweeps(c: Connection) -> None:
    """Both ways round; without it the sweeps decide again."""
    first, second = plan(c, "a", 0, 1)
    assert queue.hold(c, [first], Hold.PAUSE) == 1
    assert taken(c) == [1]
    queue.hold_sweep(c, "a", Hold.DRAIN)
    assert held(c) == {0: "pause", 1: "drain"}
    queue.hold_sweep(c, "a", None)
    assert held(c) == {0: "pause", 1: None}
    queue.hold_sweep(c, "a", Hold.DRAIN)
    assert queue.hold(c, [first, second], None) == 2
    assert held(c) == {0: "drain", 1: "drain"}


def test_a_finished_trial_cannot_be_held(c: Connection) -> None:
    """Finished, failed and cancelled trials are left as they are, and not counted."""
    rows = plan(c, "a", 0, 1, 2)
    train(c, one := claimed(c), 1, ROUNDS)
    queue.finish(c, one)
    queue.fail(c, claimed(c), at(0), FailureKind.DIVERGED, "inf")
    queue.cancel(c, rows[2:])
    assert queue.hold(c, rows, Hold.PAUSE) == 0
    queue.hold_sweep(c, "a", Hold.PAUSE)
    assert set(held(c).values()) == {None}
    assert not queue.outstanding(c)


def test_a_drained_trial_runs_on_and_is_not_waited_for(c: Connection) -> None:
    """While it runs, it is waited for; what waits behind it is not."""
    plan(c, "a", 0, 1)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.DRAIN)
    assert not gives_back(c, claim)
    assert queue.outstanding(c)
    assert queue.outstanding(c, "a")
    train(c, claim, 1, ROUNDS)
    queue.finish(c, claim)
    assert states(c) == {0: "finished", 1: "queued"}
    assert not queue.outstanding(c)
    assert not queue.outstanding(c, "a")


def test_a_paused_trial_is_given_back_and_waited_for(c: Connection) -> None:
    """Its worker hears of it with the next renewal; `--until-empty` stays for the resume."""
    plan(c, "a", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    assert gives_back(c, claim)
    queue.release(c, claim)
    assert taken(c) == []
    assert queue.outstanding(c)
    assert queue.outstanding(c, "a")
    queue.hold_sweep(c, "a", None)
    assert (again := claimed(c, BOB)).fence == claim.fence + 1
    assert not gives_back(c, again)


def test_a_pause_that_is_taken_back_in_time_disturbs_nobody(c: Connection) -> None:
    """The running attempt never hears of it."""
    plan(c, "a", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    queue.hold_sweep(c, "a", None)
    assert not gives_back(c, claim)


def test_trials_that_others_hold_are_not_waited_for_in_another_sweep_s_scope(c: Connection) -> None:
    """A paused sweep keeps no worker of another one."""
    plan(c, "a", 0)
    plan(c, "b", 1)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    train(c, claim := claimed(c), 1, ROUNDS)
    queue.finish(c, claim)
    assert not queue.outstanding(c, "b")
    assert queue.outstanding(c)


def test_a_shared_trial_is_waited_for_by_both_of_its_sweeps(c: Connection) -> None:
    """By the one that planned it first and by the one that joined, queued or running."""
    plan(c, "a", 0)
    plan(c, "b", 0)
    assert queue.outstanding(c, "a")
    assert queue.outstanding(c, "b")
    claim = claimed(c)
    assert queue.outstanding(c, "b")
    queue.cancel(c, [claim.trial])
    assert not queue.outstanding(c, "a")
    assert not queue.outstanding(c, "b")


def test_trials_planned_into_a_held_sweep_are_held_too(c: Connection) -> None:
    """Added to a paused sweep, it waits with the rest of it."""
    plan(c, "a", 0)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    plan(c, "a", 0, 1)
    assert held(c) == {0: "pause", 1: "pause"}


def test_a_new_sweep_that_has_a_held_trial_frees_it(c: Connection) -> None:
    """A person who plans it asks for it. A person's own hold of that trial stays."""
    _, second = plan(c, "a", 0, 1)
    queue.hold(c, [second], Hold.DRAIN)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    plan(c, "b", 0, 1)
    assert held(c) == {0: None, 1: "drain"}


def test_cancelling_a_sweep_leaves_what_another_live_sweep_has(c: Connection) -> None:
    """Cancelling that one too cancels the rest; running attempts lose their claims."""
    plan(c, "a", 0, 1)
    plan(c, "b", 1, 2)
    running = [claimed(c), claimed(c)]
    assert cancel_sweep(c, "a") == 1
    assert states(c) == {0: "cancelled", 1: "running", 2: "queued"}
    with pytest.raises(LeaseLost, match="was cancelled"):
        gives_back(c, running[0])
    assert not gives_back(c, running[1])
    assert cancel_sweep(c, "b") == 2
    assert set(states(c).values()) == {"cancelled"}
    assert [outcomes(c, claim) for claim in running] == [[Outcome.CANCELLED]] * 2
    assert not queue.outstanding(c)


def test_a_cancelled_sweep_has_no_say_over_what_another_one_shares(c: Connection) -> None:
    """Its trial is as free, or as held, as the live sweep's."""
    plan(c, "a", 0)
    plan(c, "b", 0)
    cancel_sweep(c, "a")
    assert held(c) == {0: None}
    queue.hold_sweep(c, "b", Hold.DRAIN)
    assert held(c) == {0: "drain"}


def test_a_cancelled_sweep_is_neither_resumed_nor_held(c: Connection) -> None:
    """The refusal names what takes it back; a sweep that is not there is told apart."""
    plan(c, "a", 0)
    sweep_rows.require_free(c, "a")
    cancel_sweep(c, "a")
    with pytest.raises(Refused, match="plan it again"):
        sweep_rows.require_free(c, "a")
    with pytest.raises(NotFound, match="there are a"):
        sweep_rows.require_free(c, "z")


def test_planning_a_cancelled_sweep_again_takes_it_back(c: Connection) -> None:
    """Its trials wait again, free, but for those that are done or that a person holds."""
    rows = plan(c, "a", 0, 1, 2)
    train(c, claim := claimed(c), 1, ROUNDS)
    queue.finish(c, claim)
    queue.hold(c, rows[2:], Hold.PAUSE)
    queue.hold_sweep(c, "a", Hold.DRAIN)
    assert cancel_sweep(c, "a") == 2
    plan(c, "a", 0, 1, 2)
    assert states(c) == {0: "finished", 1: "queued", 2: "queued"}
    assert taken(c) == [1]
    sweep_rows.require_free(c, "a")


def test_planning_back_a_sweep_whose_trials_another_paused_one_has_frees_them(
    c: Connection,
) -> None:
    """Trials that only the paused sweep still had are free again."""
    plan(c, "a", 0, 1)
    plan(c, "b", 1)
    queue.hold_sweep(c, "b", Hold.PAUSE)
    cancel_sweep(c, "a")
    assert (states(c)[1], held(c)[1]) == ("queued", "pause")
    plan(c, "a", 0, 1)
    assert taken(c) == [0, 1]


def test_a_sweep_that_has_trained_its_rounds_is_held_and_its_trials_given_back(
    c: Connection,
) -> None:
    """At the limit, not before it; what waits beyond it is not waited for."""
    plan(c, "a", 0, 1, 2, budget=Budget(rounds=4))
    first, second = claimed(c), claimed(c)
    train(c, first, 1, ROUNDS)
    queue.finish(c, first)
    assert queue.spend(c) == []
    train(c, second, 1, 1)
    assert queue.overspent(c) == ["a"]
    assert queue.spend(c) == ["a"]
    assert queue.overspent(c) == queue.spend(c) == []
    assert held(c) == {0: None, 1: "budget", 2: "budget"}
    assert gives_back(c, second)
    queue.release(c, second)
    assert taken(c) == []
    assert not queue.outstanding(c)


def test_a_budget_of_hours_counts_what_all_attempts_trained(c: Connection) -> None:
    """Rounds of a quarter second each, trained again or for the first time."""
    plan(c, "a", 0, budget=Budget(hours=1.0 / 3600))
    claim = claimed(c)
    train(c, claim, 1, 2)
    queue.release(c, claim)
    assert queue.spend(c) == []
    train(c, claimed(c), 1, 2)
    spent = c.execute(sa.text("SELECT rounds_trained, seconds_trained FROM ledger")).one()
    assert tuple(spent) == (4, 1.0)
    assert queue.spend(c) == ["a"]


def test_raising_a_budget_lets_the_sweep_go_on(c: Connection) -> None:
    """By command or by planning it with a higher one; too low a one holds it at once."""
    plan(c, "a", 0, 1, budget=Budget(rounds=1))
    train(c, claim := claimed(c), 1, 2)
    queue.spend(c)
    queue.release(c, claim)
    queue.budget(c, "a", rounds=2, hours=None)
    assert set(held(c).values()) == {"budget"}
    queue.budget(c, "a", rounds=3, hours=None)
    assert set(held(c).values()) == {None}
    plan(c, "a", 0, 1, budget=Budget(rounds=2))
    assert set(held(c).values()) == {"budget"}
    plan(c, "a", 0, 1, budget=Budget(rounds=9))
    assert set(held(c).values()) == {None}
    plan(c, "a", 0, 1, budget=Budget(rounds=2))
    queue.budget(c, "a", rounds=None, hours=None)
    assert taken(c) == [0, 1]


def test_a_budget_is_kept_by_its_own_sweep_alone(c: Connection) -> None:
    """Trials of another free sweep continue. The rounds that it trains count for both."""
    plan(c, "a", 0, 1, budget=Budget(rounds=3))
    plan(c, "b", 1, 2)
    train(c, claim := claimed(c), 1, ROUNDS)
    queue.finish(c, claim)
    assert queue.spend(c) == ["a"]
    assert held(c) == {0: None, 1: None, 2: None}
    assert taken(c) == [1, 2]


def test_a_paused_sweep_stays_paused_beyond_its_budget(c: Connection) -> None:
    """A person's hold is not replaced by the budget's; resumed, the budget holds it."""
    plan(c, "a", 0, budget=Budget(rounds=1))
    train(c, claimed(c), 1, 1)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    assert queue.spend(c) == []
    queue.hold_sweep(c, "a", None)
    assert queue.spend(c) == ["a"]
    assert held(c) == {0: "budget"}


def test_priorities_can_be_raised_and_lowered_later(c: Connection) -> None:
    """Waiting and running trials change. A planned trial keeps the priority that it has."""
    rows = plan(c, "a", 0, 1, 2, 3)
    queue.cancel(c, rows[3:])
    assert queue.prioritize(c, rows[2:], 5) == 1
    assert queue.prioritize(c, rows[:1], -1) == 1
    plan(c, "b", 2, 4, priority=1)
    assert taken(c) == [2, 4, 1, 0]


def test_a_given_back_trial_keeps_the_priority_it_was_given_while_it_ran(c: Connection) -> None:
    """It is the first to be claimed again."""
    plan(c, "a", 0, 1, 2)
    running = [claimed(c), claimed(c)]
    assert queue.prioritize(c, [running[1].trial], 1) == 1
    for claim in running:
        queue.release(c, claim)
    assert taken(c) == [1, 0, 2]


def test_a_claim_in_scope_takes_shared_trials_in_the_order_of_all(c: Connection) -> None:
    """By priority, then by age, whichever sweep planned them first."""
    rows = plan(c, "a", 0, 1, 2)
    plan(c, "b", 9, 1, 2)
    queue.prioritize(c, rows[2:], 3)
    assert taken(c, "b") == [2, 1, 9]
    assert taken(c, "a") == [0]
    assert taken(c, "no such sweep") == []


def test_a_claim_in_scope_takes_over_what_its_sweep_lost_and_no_other(c: Connection) -> None:
    """Others' expired trials are queued again, and left to others."""
    plan(c, "a", 0)
    plan(c, "b", 1)
    for _ in range(2):
        claimed(c)
    assert taken(c, "b", seconds=LEASE + 1) == [1]
    assert states(c) == {0: "queued", 1: "running"}


def test_the_next_change_is_the_first_lease_s_end_or_the_first_back_off_s(c: Connection) -> None:
    """None where nothing is going to happen by itself; in the past where it is overdue."""
    plan(c, "a", 0, 1)
    assert queue.next_change(c, at(0)) is None
    first = claimed(c)
    assert queue.next_change(c, at(5)) == 10.0
    delay = queue.fail(c, first, at(5), FailureKind.ERROR, "boom")
    assert delay is not None
    assert queue.next_change(c, at(5)) == pytest.approx(delay)
    claimed(c, seconds=5)
    assert queue.next_change(c, at(6)) == pytest.approx(min(delay - 1, 14.0))
    assert queue.next_change(c, at(100)) == pytest.approx(min(5 + delay, 20.0) - 100)


def test_a_retried_trial_of_a_held_sweep_stays_held(c: Connection) -> None:
    """It waits with the others, even where it failed before the sweep was held."""
    rows = plan(c, "a", 0)
    queue.fail(c, claimed(c), at(0), FailureKind.BAD_DATA, "none")
    queue.hold_sweep(c, "a", Hold.PAUSE)
    assert queue.retry(c, rows) == 1
    assert (states(c), held(c)) == ({0: "queued"}, {0: "pause"})
    assert taken(c) == []


def test_a_retried_trial_of_a_sweep_that_was_resumed_meanwhile_is_free(c: Connection) -> None:
    """The hold that it had when it was cancelled no longer exists."""
    rows = plan(c, "a", 0)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    queue.cancel(c, rows)
    queue.hold_sweep(c, "a", None)
    queue.retry(c, rows)
    assert taken(c) == [0]


ENDS: dict[str, Callable[[Connection, Claim], object]] = {
    "release": queue.release,
    "lose": lambda c, claim: queue.lose(c, claim, "killed"),
    "rescue": lambda c, _: queue.rescue(c, at(LEASE + 1)),
    "fail": lambda c, claim: queue.fail(c, claim, at(0), FailureKind.ERROR, "boom"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_held_trial_stays_unclaimable_however_its_attempt_ends(end: str, c: Connection) -> None:
    """Given back, lost, or failed and long backed off: it waits for the resume."""
    plan(c, "a", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    ENDS[end](c, claim)
    assert state(c, claim) == TrialState.QUEUED
    assert taken(c, seconds=100) == []
    assert queue.outstanding(c)
    queue.hold_sweep(c, "a", None)
    assert taken(c, seconds=100) == [0]


def test_a_resumed_trial_still_backs_off(c: Connection) -> None:
    """A hold does not shorten the wait after a failure."""
    plan(c, "a", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    delay = queue.fail(c, claim, at(0), FailureKind.ERROR, "boom")
    assert delay is not None
    queue.hold_sweep(c, "a", None)
    assert taken(c, seconds=delay - 0.01) == []
    assert taken(c, seconds=delay + 0.01) == [0]


def test_a_trial_that_failed_for_good_while_held_is_not_waited_for(c: Connection) -> None:
    """Nor does a resume bring it back."""
    plan(c, "a", 0)
    claim = claimed(c)
    queue.hold_sweep(c, "a", Hold.PAUSE)
    queue.fail(c, claim, at(0), FailureKind.DIVERGED, "inf")
    assert not queue.outstanding(c)
    queue.hold_sweep(c, "a", None)
    assert states(c) == {0: "failed"}
    assert taken(c) == []


def test_a_trial_that_has_backed_off_is_claimed_if_no_other_waits(c: Connection) -> None:
    """And queued again on the way, where something does: by its age, it is then the next."""
    plan(c, "a", 0, 1, 2)
    delay = queue.fail(c, claimed(c), at(0), FailureKind.ERROR, "boom")
    assert delay is not None
    order = [int(claimed(c, seconds=delay + 1).config["seed"]) for _ in range(3)]
    assert order == [1, 0, 2]


def test_holding_a_sweep_touches_no_other(c: Connection) -> None:
    """Its row alone; and thousands of its trials at once, in one statement."""
    plan(c, "a", *range(100))
    plan(c, "b", *range(100, 110))
    queue.hold_sweep(c, "a", Hold.PAUSE)
    names = c.execute(sa.select(sweeps.c.name).where(sweeps.c.held.is_not(None))).scalars().all()
    assert names == ["a"]
    counted = sa.select(sa.func.count()).where(trials.c.held == "pause")
    assert c.execute(counted).scalar_one() == 100
    assert len(taken(c)) == 10
