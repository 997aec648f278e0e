"""The queue against a small model of it, under any calls, in any order, at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.errors import FedsweepError, LeaseLost, Refused
from fedsweep.plans import SweepSpec, TrialSpec
from fedsweep.states import RETRIED, FailureKind, Hold
from fedsweep.store import planning, round_rows, sweep_rows, tables
from fedsweep.store.claim import Claim
from fedsweep.store.moment import Moment
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, members, metadata, rounds, sweeps, trials
from fedsweep.store.transactions import transaction
from tests.contract.steps import ALICE, LEASE, ROUNDS, config, measured

STORIES = {"sqlite": 20, "postgres": 8}
"""Stories of thirty steps each take about three seconds. `make slow` has a thousand and three
hundred.
"""
SEEDS, SWEEPS = range(4), ("a", "b")
OPEN = ("queued", "running")


@dataclass
class Attempt:
    fence: int
    outcome: str | None = None
    trained: int = 0
    new: int = 0
    doubt: bool = False
    """It ended, and that is no sign against its trial."""
    last: bool = False
    """Its doubt was the one too many."""


@dataclass
class Trial:
    """The values that the tables must have for one trial."""

    row: int
    sweep: str
    priority: int
    state: str = "queued"
    lease_until: float | None = None
    clock: str | None = None
    not_before: float | None = None
    failures: int = 0
    losses: int = 0
    failure: str | None = None
    wish: str | None = None
    done: int = 0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def fence(self) -> int:
        return len(self.attempts)

    def leave(self, state: str, outcome: str | None = None) -> None:
        """Leave `running`, or be left out of it."""
        if self.attempts and self.attempts[-1].outcome is None:
            self.attempts[-1].outcome = outcome
        self.state, self.lease_until, self.clock = state, None, None

    def expire(self, *, doubt: bool = False) -> None:
        """Lose the worker, or (in doubt) a machine that was started again."""
        mine = self.attempts[-1]
        mine.doubt = doubt
        self.losses = 0 if mine.new else self.losses + (not doubt)
        lost = self.losses >= queue.MAX_LOSSES
        if not lost and self.doubts() >= queue.MAX_DOUBTS:
            lost = mine.last = True
        self.failure = "lost" if lost else None
        self.leave("failed" if lost else "queued", "expired")

    def doubts(self) -> int:
        count = 0
        for attempt in reversed(self.attempts):
            settled = attempt.outcome in ("finished", "failed", "cancelled")
            if attempt.new or attempt.last or settled:
                break
            count += attempt.doubt
        return count


@dataclass
class Sweep:
    seeds: set[int] = field(default_factory=set)
    held: str | None = None
    budget: int | None = None


@dataclass
class Model:
    """The queue, slow and obvious."""

    trials: dict[int, Trial] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    now: float = 1000.0
    clock: str = "m0"

    def held(self, seed: int) -> str | None:
        """By its own wish, else where no sweep that has it is free; drained rather than stopped."""
        reasons = {s.held for s in self.sweeps.values() if seed in s.seeds} - {"cancel"}
        if self.trials[seed].wish is not None:
            return self.trials[seed].wish
        if None in reasons:
            return None
        return next((why for why in ("drain", "budget", "pause") if why in reasons), None)

    def scope(self, sweep: str | None) -> dict[int, Trial]:
        seeds = self.trials if sweep is None else self.sweeps[sweep].seeds
        return {seed: self.trials[seed] for seed in seeds}

    def order(self, sweep: str | None = None) -> list[int]:
        """The trials that can be claimed now, the first one first."""
        waiting = [
            (-trial.priority, trial.row, seed)
            for seed, trial in self.scope(sweep).items()
            if trial.state == "queued" and trial.not_before is None and self.held(seed) is None
        ]
        return [seed for _, _, seed in sorted(waiting)]

    def take(self, sweep: str | None) -> int | None:
        order = self.order(sweep)
        if not order:
            return None
        trial = self.trials[order[0]]
        trial.attempts.append(Attempt(trial.fence + 1))
        trial.state, trial.lease_until, trial.clock = "running", self.now + LEASE, self.clock
        return order[0]

    def claim(self, sweep: str | None) -> int | None:
        taken = self.take(sweep)
        self.rescue()
        return self.take(sweep) if taken is None else taken

    def rescue(self) -> int:
        """Queue again what has expired or backed off, on this clock or another one."""
        count = 0
        for trial in self.trials.values():
            other = trial.clock != self.clock
            if trial.state == "running" and (other or trial.lease_until < self.now):
                trial.expire(doubt=other)
            elif trial.not_before is not None and (other or trial.not_before <= self.now):
                trial.not_before = trial.clock = None
            else:
                continue
            count += 1
        return count

    def cancel(self, seeds: Iterable[int]) -> int:
        some = [self.trials[seed] for seed in seeds if self.trials[seed].state in OPEN]
        for trial in some:
            trial.leave("cancelled", "cancelled")
            trial.not_before = None
        return len(some)

    def retry(self, seeds: Iterable[int]) -> None:
        for trial in (self.trials[seed] for seed in seeds):
            trial.state, trial.failure, trial.failures, trial.losses = "queued", None, 0, 0

    def spend(self) -> list[str]:
        over = [name for name in self.sweeps if self.overspent(name)]
        for name in over:
            self.sweeps[name].held = "budget"
        return over

    def overspent(self, name: str) -> bool:
        sweep = self.sweeps[name]
        if sweep.budget is None or sweep.held not in (None, "drain"):
            return False
        return sum(a.trained for t in self.scope(name).values() for a in t.attempts) >= sweep.budget

    def due(self) -> list[float]:
        """When a lease ends, or a trial has backed off, on this clock."""
        mine = [t for t in self.trials.values() if t.clock == self.clock]
        return [t.lease_until if t.state == "running" else t.not_before for t in mine]

    def outstanding(self, sweep: str | None = None) -> bool:
        return any(
            trial.state == "running"
            or (trial.state == "queued" and self.held(seed) in (None, "pause"))
            for seed, trial in self.scope(sweep).items()
        )


@cache
def spec(seed: int) -> TrialSpec:
    return TrialSpec.of(config(seed))


SOME = st.sets(st.sampled_from(SEEDS), min_size=1, max_size=2).map(sorted)
SWEEP = st.sampled_from(SWEEPS)
SCOPE, ANY = st.sampled_from([None, None, *SWEEPS]), st.integers(0, 3)
ASKED = ["cancel", "cancel", "retry", "retry", None, None, Hold.PAUSE, Hold.DRAIN, -1, 2, 3]
LATE: list[Callable[[Connection, Claim, Moment], object]] = [
    queue.renew,
    lambda c, claim, _: queue.finish(c, claim),
    lambda c, claim, now: queue.fail(c, claim, now, FailureKind.ERROR, "late"),
    lambda c, claim, _: queue.release(c, claim),
    lambda c, claim, _: queue.lose(c, claim, "late"),
]


class Machine(RuleBasedStateMachine):
    """Does everything twice: to the store and to the model."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.model = Model()
        self.claims: list[Claim] = []
        with transaction(self.engine) as c:
            for table in reversed(metadata.sorted_tables):
                if table.name != "store":
                    c.execute(sa.delete(table))

    @property
    def now(self) -> Moment:
        return Moment(self.model.now, self.model.clock)

    def trial(self, claim: Claim) -> Trial:
        return self.model.trials[claim.config["seed"]]

    def holds(self, claim: Claim) -> bool:
        trial = self.trial(claim)
        return trial.state == "running" and trial.fence == claim.fence

    @property
    def live(self) -> list[Claim]:
        return [claim for claim in self.claims if self.holds(claim)]

    @property
    def stale(self) -> list[Claim]:
        return [claim for claim in self.claims if not self.holds(claim)]

    # What planners and people do.

    @initialize()
    def plan_first(self) -> None:
        self.plan("a", [0, 1, 2], 0)
        self.plan("b", [2, 3], 1)

    @rule(name=SWEEP, seeds=SOME, priority=st.integers(0, 2))
    def plan(self, name: str, seeds: list[int], priority: int) -> None:
        text = SweepSpec(name, str(seeds), tuple(spec(seed) for seed in seeds))
        with transaction(self.engine) as c:
            planned = planning.add_sweep(c, text, priority)
            if planned.cancelled:
                queue.retry(c, sweep_rows.trial_keys(c, planned.cancelled))
            queue.planned(c, name, None)
            rows = dict(c.execute(sa.select(trials.c.seed, trials.c.id)).all())
        sweep, known = self.model.sweeps.setdefault(name, Sweep()), self.model.trials
        cancelled = [seed for seed in seeds if seed in known and known[seed].state == "cancelled"]
        new = [seed for seed in seeds if seed not in known]
        assert (planned.new, planned.kept) == (len(new), len(seeds) - len(new))
        assert planned.dropped == len(sweep.seeds - set(seeds))
        assert set(planned.cancelled) == {spec(seed).trial_id for seed in cancelled}
        self.model.retry(cancelled)
        for seed in new:
            known[seed] = Trial(rows[seed], name, priority)
        sweep.seeds |= set(seeds)
        sweep.held = None if sweep.held == "cancel" else sweep.held

    @rule(seeds=SOME, asked=st.sampled_from(ASKED))
    def ask_of_trials(self, seeds: list[int], asked: str | int | Hold | None) -> None:
        """To be cancelled, retried, held (or not), or of another priority."""
        some = [self.model.trials[seed] for seed in seeds]
        rows, are_open = [t.row for t in some], [t for t in some if t.state in OPEN]
        with transaction(self.engine) as c:
            if asked == "cancel":
                assert queue.cancel(c, rows) == self.model.cancel(seeds)
            elif asked == "retry" and any(t.state not in ("failed", "cancelled") for t in some):
                with pytest.raises(Refused, match="only failed and cancelled"):
                    queue.retry(c, rows)
            elif asked == "retry":
                assert queue.retry(c, rows) == len(rows)
                self.model.retry(seeds)
            elif isinstance(asked, int):
                assert queue.prioritize(c, rows, asked) == len(are_open)
                for trial in are_open:
                    trial.priority = asked
            else:
                assert queue.hold(c, rows, asked) == len(are_open)
                for trial in are_open:
                    trial.wish = asked

    @rule(name=SWEEP, asked=st.sampled_from([None, None, Hold.PAUSE, Hold.DRAIN, Hold.CANCEL]))
    def ask_of_a_sweep(self, name: str, asked: Hold | None) -> None:
        """To be resumed, held or cancelled."""
        sweep = self.model.sweeps[name]
        with transaction(self.engine) as c:
            if asked is Hold.CANCEL:
                others = [other for other in self.model.sweeps.values() if other is not sweep]
                wanted = {seed for o in others if o.held != "cancel" for seed in o.seeds}
                alone = [self.model.trials[seed].row for seed in sweep.seeds - wanted]
                only = sweep_rows.held_alone(c, name)
                assert sorted(only) == sorted(alone)
                queue.hold_sweep(c, name, Hold.CANCEL)
                assert queue.cancel(c, only) == self.model.cancel(sweep.seeds - wanted)
            elif sweep.held == "cancel":
                with pytest.raises(Refused, match="is cancelled"):
                    sweep_rows.require_free(c, name)
                return
            else:
                queue.hold_sweep(c, name, asked)
        sweep.held = asked

    @rule(name=SWEEP, rounds=st.sampled_from([None, 1, 3, 6]))
    def budget(self, name: str, rounds: int | None) -> None:
        with transaction(self.engine) as c:
            queue.budget(c, name, rounds=rounds, hours=None)
        sweep = self.model.sweeps[name]
        sweep.budget, sweep.held = rounds, None if sweep.held == "budget" else sweep.held
        self.model.spend()

    # What workers do.

    @rule(scope=SCOPE, count=st.integers(1, 3))
    def claim(self, scope: str | None, count: int) -> None:
        for _ in range(count):
            self.claimed(scope)

    def claimed(self, scope: str | None) -> Claim | None:
        with transaction(self.engine) as c:
            claim = queue.claim(c, ALICE, self.now, lease=LEASE, sweep=scope)
        expected = self.model.claim(scope)
        if claim is None or expected is None:
            assert claim is expected
            return None
        trial = self.trial(claim)
        assert (claim.config["seed"], claim.trial) == (expected, trial.row)
        assert (claim.fence, claim.final_round) == (trial.fence, trial.done)
        self.claims.append(claim)
        return claim

    def one(self, n: int, scope: str | None) -> Claim | None:
        """A live claim, or a new one."""
        return self.live[n] if n < len(self.live) else self.claimed(scope)

    @rule(n=ANY, scope=SCOPE, back=st.sampled_from([0, 0, 1, 2]), count=ANY, finish=st.booleans())
    def train(self, n: int, scope: str | None, back: int, count: int, finish: bool) -> None:
        if (claim := self.one(n, scope)) is not None:
            self.store(claim, back, count)
            if finish:
                self.finish(claim)

    def store(self, claim: Claim, back: int, count: int) -> None:
        """Renew, and store rounds from behind the last one, or from a snapshot of before."""
        trial = self.trial(claim)
        first = max(1, trial.done + 1 - back)
        numbers = range(first, min(first + count, ROUNDS + 1))
        with transaction(self.engine) as c:
            held = queue.renew(c, claim, self.now, lease=LEASE)
            done = [measured(number) for number in numbers]
            assert round_rows.add_rounds(c, claim, done, held.final_round) is None
        wanted_back = self.model.held(claim.config["seed"]) in ("pause", "budget")
        assert held == queue.Held(trial.done, wanted_back)
        trial.lease_until, trial.clock = self.model.now + LEASE, self.model.clock
        new = len([number for number in numbers if number > trial.done])
        trial.attempts[-1].trained += len(numbers)
        trial.attempts[-1].new += new
        trial.losses, trial.done = 0 if new else trial.losses, trial.done + new

    def finish(self, claim: Claim) -> None:
        trial = self.trial(claim)
        with transaction(self.engine) as c:
            if trial.done == ROUNDS:
                queue.finish(c, claim)
                trial.losses, trial.wish = 0, None
                trial.leave("finished", "finished")
            else:
                with pytest.raises(FedsweepError, match="a round is missing"):
                    queue.finish(c, claim)

    @rule(n=ANY, scope=SCOPE, kind=st.sampled_from([*FailureKind, *RETRIED]))
    def fail(self, n: int, scope: str | None, kind: FailureKind) -> None:
        if (claim := self.one(n, scope)) is None:
            return
        trial = self.trial(claim)
        with transaction(self.engine) as c:
            delay = queue.fail(c, claim, self.now, kind, "so it is")
        trial.failures += 1
        assert (delay is None) == (kind not in RETRIED or trial.failures >= queue.MAX_ATTEMPTS)
        trial.leave("failed" if delay is None else "queued", "failed")
        if delay is None:
            trial.failure = kind
        else:
            trial.not_before, trial.clock = self.model.now + delay, self.model.clock

    @rule(n=ANY, scope=SCOPE, lost=st.booleans())
    def give_up(self, n: int, scope: str | None, lost: bool) -> None:
        """By its own will, or because the trainer died."""
        if (claim := self.one(n, scope)) is None:
            return
        with transaction(self.engine) as c:
            if lost:
                queue.lose(c, claim, "killed")
                self.trial(claim).expire()
            else:
                queue.release(c, claim)
                self.trial(claim).leave("queued", "released")

    @precondition(lambda self: self.stale)
    @rule(n=st.integers(0, 9), write=st.sampled_from(LATE))
    def write_late(self, n: int, write: Callable[[Connection, Claim, Moment], object]) -> None:
        """Refused; that it changed nothing, the invariant says, after its commit."""
        claim = self.stale[-1 - n % len(self.stale)]
        with transaction(self.engine) as c, pytest.raises(LeaseLost):
            write(c, claim, self.now)

    # Changes that happen by themselves, or that any worker makes.

    @rule(seconds=st.sampled_from([None, None, 0.25, 5.0, 15.25, 40.0]), rescue=st.booleans())
    def wait(self, seconds: float | None, rescue: bool) -> None:
        """Or (None) until the very moment at which something is due."""
        due = [time for time in self.model.due() if time > self.model.now]
        self.model.now = (
            min(due, default=self.model.now) if seconds is None else self.model.now + seconds
        )
        if rescue:
            self.rescue()

    @rule(letter=st.sampled_from("az"), rescue=st.booleans())
    def boot(self, letter: str, rescue: bool) -> None:
        """The machine starts again: its clock near zero, under a new name."""
        self.model.now, self.model.clock = 5.0, f"{letter}{self.model.clock}"
        if rescue:
            self.rescue()

    def rescue(self) -> None:
        with transaction(self.engine) as c:
            assert queue.rescue(c, self.now) == self.model.rescue()
            assert sorted(queue.spend(c)) == sorted(self.model.spend())

    # What must hold after every step.

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        with transaction(self.engine) as c:
            self.compare_trials(c)
            self.compare_attempts(c)
            self.compare_members(c)
            self.compare_answers(c)

    def compare_trials(self, c: Connection) -> None:
        names = ("id", "state", "fence", "lease_until", "clock", "not_before", "priority")
        names += ("failures", "losses", "failure", "wish", "held")
        found = {
            row.seed: tuple(row)[1:]
            for row in c.execute(sa.select(trials.c.seed, *(trials.c[name] for name in names)))
        }
        for seed, t in self.model.trials.items():
            held = self.model.held(seed) if t.state in OPEN else found[seed][-1]
            assert found[seed] == (
                *(t.row, t.state, t.fence, t.lease_until, t.clock, t.not_before, t.priority),
                *(t.failures, t.losses, t.failure, t.wish, held),
            )
            assert (t.state == "running") == (found[seed][3] is not None)
        assert len(found) == len(self.model.trials)

    def compare_attempts(self, c: Connection) -> None:
        stored = sa.select(trials.c.seed, rounds.c.round).join(
            rounds, rounds.c.trial == trials.c.id
        )
        kept = {(seed, r) for seed, t in self.model.trials.items() for r in range(1, t.done + 1)}
        found = [tuple(row) for row in c.execute(stored)]
        assert (set(found), len(found)) == (kept, len(kept))
        a = attempts.c
        query = sa.select(trials.c.seed, a.fence, a.outcome, a.rounds_trained, a.rounds_new)
        made = c.execute(query.join(attempts, a.trial == trials.c.id))
        by_seed: dict[int, list[tuple[object, ...]]] = {seed: [] for seed in self.model.trials}
        for row in made:
            by_seed[row.seed].append(tuple(row)[1:])
        for seed, t in self.model.trials.items():
            expected = [(x.fence, x.outcome, x.trained, x.new) for x in t.attempts]
            assert sorted(by_seed[seed]) == expected
            outcomes = [x.outcome for x in t.attempts]
            assert outcomes.count(None) == (t.state == "running")
            assert outcomes.count("finished") == (t.state == "finished")
            assert t.done == ROUNDS or t.state != "finished"

    def compare_members(self, c: Connection) -> None:
        query = sa.select(sweeps.c.name, sweeps.c.held, trials.c.seed, members.c.shared)
        query = query.join(members, members.c.sweep == sweeps.c.id)
        found = {
            tuple(row) for row in c.execute(query.join(trials, trials.c.id == members.c.trial))
        }
        assert found == {
            (name, sweep.held, seed, int(self.model.trials[seed].sweep != name))
            for name, sweep in self.model.sweeps.items()
            for seed in sweep.seeds
        }

    def compare_answers(self, c: Connection) -> None:
        model = self.model
        claimable = sa.select(trials.c.seed).where(sa.text(tables.CLAIMABLE))
        ordered = claimable.order_by(trials.c.priority.desc(), trials.c.id)
        assert c.execute(ordered).scalars().all() == model.order()
        for scope in (None, *model.sweeps):
            assert queue.outstanding(c, scope) == model.outstanding(scope)
        if all(t.clock in (None, model.clock) for t in model.trials.values()):
            change = queue.next_change(c, self.now)
            assert change == min((time - model.now for time in model.due()), default=None)


@pytest.mark.parametrize(
    ("database", "stories"),
    [
        *STORIES.items(),
        pytest.param("sqlite", 1000, marks=pytest.mark.slow),
        pytest.param("postgres", 300, marks=pytest.mark.slow),
    ],
)
def test_the_queue_does_the_same_as_its_model(
    database: str, stories: int, request: pytest.FixtureRequest
) -> None:
    """Each state, lease, hold, count and order agree after every step of every story."""
    engine = open_store(request.getfixturevalue(f"{database}_url"))
    limits = settings(
        max_examples=stories,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Machine(engine), settings=limits)
    engine.dispose()
