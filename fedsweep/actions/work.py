"""The options of a worker, checked before it begins, and the texts about its trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsweep import worker
from fedsweep.errors import DeviceError, MachineError, RequestError, visible
from fedsweep.execution.device import ENGINES, devices
from fedsweep.notify import webhook
from fedsweep.store import places, trust
from fedsweep.store.progress import SweepProgress
from fedsweep.words import counted, duration
from fedsweep.worker import Tally, WorkStatus


def options(
    url: str,
    device: str,
    *,
    slots: str,
    threads: int,
    engine: str,
    sweep: str | None,
    until_empty: bool,
    max_trials: int | None,
    max_hours: float | None,
    max_attempts: int,
    data: Path | None,
    lease: float,
    grace: float,
    artifacts: Sequence[str],
    artifacts_variable: str | None,
    notify: Sequence[str],
) -> worker.WorkOptions:
    """Return the options of `worker.work`.

    `slots` is a number, or "auto": one on a CPU, and on a GPU as many as raise its throughput.

    A missing device is also stored in the database, so that `status` shows it.

    Raises:
        DeviceError: There is no such device.
        RequestError: The slots, the engine, a webhook or a place for files cannot be used.

    """
    for address in notify:
        webhook.checked(address)
    if engine not in ENGINES:
        raise RequestError(f"--engine {engine} is none of {', '.join(ENGINES)}")
    number = _number_of(slots)
    try:
        names = devices(device)
    except (DeviceError, MachineError) as error:
        worker.note_stop(url, device, str(error))
        raise
    packed = number is None and "cpu" not in names
    if engine == "stack" and "cpu" in names:
        raise RequestError(
            "--engine stack trains only on GPUs: choose --engine auto or seq, or --device cuda"
        )
    return worker.WorkOptions(
        url=url,
        devices=tuple(names),
        slots=number or (worker.MOST_TRIALS if packed else 1) * len(names),
        packed=packed,
        threads=threads,
        engine=engine,
        sweep=sweep,
        until_empty=until_empty,
        max_trials=max_trials,
        max_hours=max_hours,
        max_attempts=max_attempts,
        data=data,
        lease=lease,
        grace=grace,
        artifacts=_approved(artifacts, artifacts_variable),
        notify=tuple(notify),
    )


def _number_of(slots: str) -> int | None:
    """Return the number of slots that the option names, None for "auto".

    Raises:
        RequestError: It is neither "auto" nor a number of at least 1.

    """
    if slots == "auto":
        return None
    try:
        number = int(slots)
    except ValueError:
        number = 0
    if number < 1:
        raise RequestError(f"--slots {slots} is neither auto nor a number of at least 1")
    return number


def _approved(artifacts: Sequence[str], variable: str | None) -> tuple[str, ...]:
    """Return the places of the option and of the variable in the spelling of the database."""
    approved = [places.parse(place) for place in artifacts]
    if variable:
        try:
            approved.append(places.parse(variable))
        except RequestError as error:
            raise RequestError(str(error).replace("--artifacts", trust.VARIABLE)) from error
    return tuple(approved)


def ended_line(view: WorkStatus) -> str:
    """Return the line about an ended attempt: its trial, its end, and the time left."""
    ended = view.ended
    assert ended is not None
    outcome = str(ended.outcome) if ended.outcome else "lost"
    result = ""
    if ended.last is not None:
        at = f" at round {ended.last.round}" if outcome != "finished" else ""
        if ended.last.test_accuracy is not None:
            result = f" {ended.last.test_accuracy:.2%}{at}"
        else:
            result = at
    what = description(ended.claim.config, view.varying)
    done, total = sum(p.done for p in view.progress), sum(p.trials for p in view.progress)
    left = f"  [{done}/{total}, {duration(seconds_left(view, view.progress))} left]"
    end = f"{outcome}{result} in {duration(ended.seconds)}"
    if ended.again is not None:
        end = f"{outcome}{result}, again in {duration(ended.again)}"
    end += f" ({ended.error})" if ended.error else ""
    return visible(f"{ended.claim.trial_id[:8]} {what}: {end}{left if view.progress else ''}")


def summary(tally: Tally) -> str:
    """Return the line about a run of a worker that has ended."""
    done = [f"{counted(tally.finished, 'trial')} finished", f"{tally.failed} failed"]
    done += [f"{tally.released} given back"] if tally.released else []
    done += [f"{tally.lost} lost"] if tally.lost else []
    return ("stopped: " if tally.stopped else "") + ", ".join(done)


def seconds_left(view: WorkStatus, progress: list[SweepProgress]) -> float | None:
    """Return the seconds until these sweeps end, with all slots that run now; None if unknown."""
    each = [p.seconds_left if p.queued + p.running else 0.0 for p in progress]
    if any(seconds is None for seconds in each):
        return None
    open_slots = sum(not slot.closed for slot in view.slots)
    slots = max(1, open_slots, sum(p.running for p in view.progress))
    return sum(seconds or 0.0 for seconds in each) / slots


def description(config: object, varying: Sequence[str]) -> str:
    """Return a few words about a trial's configuration, with the fields that vary in its sweep."""
    from fedsweep.reports.labels import describe

    assert isinstance(config, dict)
    return describe(config, varying)
