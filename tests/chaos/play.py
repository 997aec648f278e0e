"""A run from its first plan to its verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import disturb, plans, report, verdict
from tests.chaos.calm import Calm
from tests.chaos.command import Errands, run
from tests.chaos.eye import Eye
from tests.chaos.report import Report
from tests.chaos.stage import Event, Stage
from tests.chaos.stores import Sqlite, Store, make, query
from tests.chaos.workers import Crew

GAPS = (0.3, 3.0)
"""Shortest and longest time between two disturbances in seconds by default. Harms last longer."""
FIRST_ROUND_SECONDS = 60.0
DRAIN_SECONDS = 600.0
ORPHAN_SECONDS = 60.0
RETRIES = 5


@dataclass(frozen=True)
class Play:
    """The options of a run."""

    database: str
    minutes: float | None
    """Minutes of disturbance, None for as long as it takes for each kind to come once."""
    seed: int = 0
    workers: int = 3
    gaps: tuple[float, float] = GAPS
    without: tuple[str, ...] = ()
    """Disturbances to leave out."""
    strict: bool = False
    """True if a worker that gives up while it works is a fault after any disturbance."""
    verify: int = 0
    """Trials that are trained once more at the end, by `fedsweep verify`."""


Say = Callable[[str], None]


def perform(play: Play, folder: Path, calm: Calm, say: Say) -> Report:
    """Disturb, wait for the end, and compare. No process is left, also after an error."""
    store = make(play.database, folder)
    try:
        stage = _set_up(play, folder, store)
        try:
            return _perform(play, stage, calm, say)
        finally:
            stage.errands.wait()
            stage.crew.end()
            stage.eye.close()
    except BaseException:
        store.save(folder)
        raise
    finally:
        store.close()


def _set_up(play: Play, folder: Path, store: Store) -> Stage:
    clock = folder / "clock"
    clock.write_text(f"{0:+09d}")
    rng = random.Random(play.seed)
    stage = Stage(
        folder=folder,
        store=store,
        crew=Crew(folder, store.url, play.workers, random.Random(play.seed), clock),
        eye=Eye(store.url),
        errands=Errands(folder),
        clock=clock,
        rng=rng,
    )
    stage.plan_surely(0)
    stage.copies = 1
    stage.eye.open()
    return stage


def _perform(play: Play, stage: Stage, calm: Calm, say: Say) -> Report:
    possible = disturb.kinds(stage.store, stage.folder)
    kinds = {kind: do for kind, do in possible.items() if kind not in play.without}
    _wait_for_a_first_attempt(stage)
    minutes = _disturb(play, stage, disturb.Deck(kinds, stage.rng), say)
    say(f"{time.monotonic() - stage.began:6.1f} s  no more disturbances")
    faults = _come_to_rest(stage, control="sweep paused" in possible)
    stage.eye.close()
    say(f"{time.monotonic() - stage.began:6.1f} s  at rest; now the calm run")
    calm.train(stage.copies)
    say(f"{time.monotonic() - stage.began:6.1f} s  the verdict")
    judged = verdict.matter(stage, calm)
    faults |= verdict.judge(judged)
    verified, unequal = verdict.verify(judged, stage.rng.sample(judged.trials, play.verify))
    if unequal:
        faults["trials can be verified"] = unequal
    gave_up = report.ends(stage.crew.gave_up(at_work=True), stage.began)
    if play.strict and gave_up:
        faults["workers live through it"] = gave_up
    if faults:
        stage.store.save(stage.folder)
    return Report(
        database=play.database,
        seed=play.seed,
        minutes=minutes,
        trials=len(judged.trials),
        rounds=report.total(judged.trials, "rounds"),
        workers=len(stage.crew.ever),
        disturbances=dict.fromkeys(kinds, 0) | report.by_kind(stage.events),
        left_out=_left_out(play, stage.store, control="sweep paused" in possible),
        attempts=report.outcomes(judged.attempts),
        failures=report.failures(judged.attempts),
        rounds_trained=report.total(judged.attempts, "rounds_trained"),
        rounds_lost=report.total(judged.attempts, "rounds_lost"),
        stale_writers=report.stale_writers(stage),
        said_lost=stage.crew.said_lost(),
        retried=len(stage.retried),
        recoveries=report.recoveries(stage),
        files_left=disturb.files_left(stage.folder),
        not_begun=report.ends(stage.crew.gave_up(at_work=False), stage.began),
        gave_up=gave_up,
        tracebacks=stage.crew.tracebacks(),
        verified=verified,
        faults=faults,
        events=[_told(event, stage.began) for event in stage.events],
    )


def _wait_for_a_first_attempt(stage: Stage) -> None:
    """Wait for a first attempt, because to kill a worker before it tests nothing."""
    deadline = time.monotonic() + FIRST_ROUND_SECONDS
    while not stage.eye.seen:
        if time.monotonic() > deadline:
            raise TimeoutError("no worker claims a trial")
        stage.crew.tick()
        time.sleep(0.05)


def _disturb(play: Play, stage: Stage, deck: disturb.Deck, say: Say) -> float:
    """Disturb until it is enough. Return the minutes that it took."""
    began = now = stage.began = time.monotonic()
    due = began + stage.rng.uniform(*play.gaps)
    while not _is_enough(play, stage, deck, now - began):
        stage.tick()
        if now >= due:
            _tell(deck.strike(stage), began, say)
            due = time.monotonic() + stage.rng.uniform(*play.gaps)
        time.sleep(0.05)
        now = time.monotonic()
    return (now - began) / 60


def _is_enough(play: Play, stage: Stage, deck: disturb.Deck, seconds: float) -> bool:
    if play.minutes is None:
        return deck.kinds.keys() <= {event.kind for event in stage.events}
    return seconds >= 60 * play.minutes


def _tell(event: Event | None, began: float, say: Say) -> None:
    if event is not None:
        say(_told(event, began))


def _told(event: Event, began: float) -> str:
    return f"{event.at - began:6.1f} s  {event.kind}: {event.what}"


def _come_to_rest(stage: Stage, *, control: bool) -> dict[str, list[str]]:
    """Mend everything, and let new workers finish the rest. Return the faults."""
    stage.mend_all()
    stage.set_clock(0)
    stage.errands.wait()
    for copy in range(stage.copies):
        stage.plan_surely(copy)
        if control:
            run(stage.folder, "sweep", "resume", plans.name(copy), "--db", stage.store.url)
    for _ in range(RETRIES):
        fresh = stage.crew.start()
        if faults := _drain(stage):
            return faults
        if fresh.process.returncode != 0:
            return {"a fresh worker finishes what is left": [fresh.said()[-2000:]]}
        lost = query(stage.store.url, "SELECT trial_id, fence FROM trials WHERE failure = 'lost'")
        if not lost:
            break
        for row in lost:
            stage.retried.append((row["trial_id"], row["fence"]))
            run(stage.folder, "trial", "retry", row["trial_id"], "--db", stage.store.url)
    return {}


def _drain(stage: Stage) -> dict[str, list[str]]:
    """Wait until every worker has ended by itself. Return the faults, such as an orphaned slot."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while stage.crew.alive() and time.monotonic() < deadline:
        stage.crew.look()
        time.sleep(0.1)
    stage.crew.look()
    if alive := stage.crew.alive():
        reports = [f"worker {w.number} still runs: {w.reports()[-500:]}" for w in alive]
        return {"the workers come to an end": reports}
    if left := stage.crew.wait(ORPHAN_SECONDS):
        return {"no slot outlives its watch": [f"process {pid}" for pid in left]}
    return {}


def _left_out(play: Play, store: Store, *, control: bool) -> list[str]:
    disk = isinstance(store, Sqlite) and not store.mounted
    return [
        *(f"{kind}: not wanted" for kind in play.without),
        *(["disk filled: a small disk cannot be mounted here"] if disk else []),
        *([] if control else ["sweep paused: there is no such command"]),
    ]
