"""List and show trials; cancel, retry, pause, drain, resume and prioritize single trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.errors import NotFound, Refused
from fedsweep.states import Hold, TrialState
from fedsweep.store import sweep_rows, trial_rows
from fedsweep.store.rows import Row
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.varying import varying_fields


@dataclass(frozen=True)
class TrialDetails:
    """Everything that the database has about one trial."""

    trial_id: str
    result: Row
    """The trial's row of the view `results`."""
    standing: Row
    """Its failures and holds (`trial_rows.trial_standing`)."""
    attempts: list[Row]
    """All attempts, oldest first."""
    last_fence: int
    """The number of the last attempt; 0 if there is none."""
    log: list[Row]
    """The last lines of the last attempt's log."""


def list_trials(
    engine: Engine, sweep: str | None = None, state: TrialState | None = None, limit: int = 100
) -> list[Row]:
    """Return rows of the view `results` in the order of planning.

    Raises:
        NotFound: There is no such sweep.

    """
    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        return trial_rows.trial_list(connection, sweep, state, limit)


def varying(engine: Engine, sweep: str | None = None) -> tuple[str, ...]:
    """Return the fields that vary within a sweep, apart from those that always describe a trial."""
    with reading(engine) as connection:
        return varying_fields(connection, sweep)


def show(engine: Engine, prefix: str, *, log_lines: int) -> TrialDetails:
    """Return a trial with its attempts and the last lines of its log.

    Raises:
        NotFound: No trial's id begins with the prefix.
        RequestError: Several ids do.

    """
    with reading(engine) as connection:
        key, trial_id = trial_rows.find_trial(connection, prefix)
        result = trial_rows.trial_result(connection, trial_id)
        standing = trial_rows.trial_standing(connection, key)
        attempts = trial_rows.trial_attempts(connection, key)
        last = attempts[-1]["fence"] if attempts else 0
        log = trial_rows.trial_logs(connection, key, last, log_lines)
    return TrialDetails(trial_id, result, standing, attempts, last, log)


def logs(engine: Engine, prefix: str, attempt: int | None = None) -> dict[int, list[Row]]:
    """Return the log lines of a trial by attempt; only of one attempt if it is given.

    Raises:
        NotFound: There is no such trial, or the trial has no such attempt.
        RequestError: Several ids begin with the prefix.

    """
    with reading(engine) as connection:
        key, trial_id = trial_rows.find_trial(connection, prefix)
        fences = [row["fence"] for row in trial_rows.trial_attempts(connection, key)]
        if attempt is not None and attempt not in fences:
            numbers = f"it has {', '.join(map(str, fences))}" if fences else "it has none yet"
            raise NotFound(f"trial {trial_id} has no attempt {attempt}: {numbers}")
        return {
            fence: trial_rows.trial_logs(connection, key, fence)
            for fence in fences
            if attempt in (None, fence)
        }


def retry(engine: Engine, prefixes: Sequence[str]) -> int:
    """Queue failed and cancelled trials again, and return how many there are.

    Raises:
        NotFound: There is no such trial.
        Refused: A trial is finished, running or queued. Nothing is changed.

    """
    with transaction(engine) as connection:
        keys = [key for key, _ in _find(connection, prefixes)]
        return queue.retry(connection, keys)


def cancel(engine: Engine, prefixes: Sequence[str]) -> int:
    """Cancel queued and running trials, and return how many there are.

    Raises:
        NotFound: There is no such trial.
        Refused: A trial is neither queued nor running. Nothing is changed.

    """
    with transaction(engine) as connection:
        trials = _find(connection, prefixes)
        for key, trial_id in trials:
            if not queue.cancel(connection, [key]):
                state = trial_rows.trial_result(connection, trial_id)["state"]
                raise Refused(
                    f"trial {trial_id} is {state}: only queued and running ones can be cancelled"
                )
    return len(trials)


def hold(engine: Engine, prefixes: Sequence[str], reason: Hold | None) -> int:
    """Pause or drain trials, or resume them (None); return how many there are.

    Raises:
        NotFound: There is no such trial.
        Refused: A trial is neither queued nor running. Nothing is changed.

    """
    with transaction(engine) as connection:
        trials = _find(connection, prefixes)
        for key, trial_id in trials:
            if not queue.hold(connection, [key], reason):
                state = trial_rows.trial_result(connection, trial_id)["state"]
                raise Refused(
                    f"trial {trial_id} is {state}: only queued and running ones can be held"
                )
    return len(trials)


def prioritize(engine: Engine, prefixes: Sequence[str], priority: int) -> int:
    """Set the priority of trials; return how many of them are queued or running.

    Raises:
        NotFound: There is no such trial.

    """
    with transaction(engine) as connection:
        keys = [key for key, _ in _find(connection, prefixes)]
        return queue.prioritize(connection, keys, priority)


def _find(connection: Connection, prefixes: Sequence[str]) -> list[tuple[int, str]]:
    """Return the row and the full id of each trial."""
    return [trial_rows.find_trial(connection, prefix) for prefix in prefixes]
