"""Check the options of a worker before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsweep import worker
from fedsweep.errors import DeviceError, MachineError, RequestError
from fedsweep.execution.device import ENGINES, devices
from fedsweep.notify import webhook
from fedsweep.store import places, trust


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
            "--engine stack trains on GPUs alone: choose --engine auto or seq, or --device cuda"
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
