"""Verification: train a trial again from round 1, and compare it with its stored rounds.

Nothing is written. Bitwise equal results are promised only under equal numerics (see
`trainers.numerics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fedsweep.errors import DeviceError, RequestError, TrialFailed
from fedsweep.execution import device, packages, training
from fedsweep.execution.device import AUTO, ENGINES
from fedsweep.execution.place import Place
from fedsweep.plans import Round, TrainConfig, check_recipe
from fedsweep.states import FailureKind
from fedsweep.store.round_difference import Differs, differences
from fedsweep.store.trial_record import Record


@dataclass(frozen=True)
class Field:
    """A field of the numerics that differs on this machine."""

    name: str
    stored: str
    """Its value for the stored rounds; "" for none."""
    current: str
    """Its value on this machine; "" for none."""


@dataclass(frozen=True)
class Step:
    """A round that was trained again."""

    round: Round
    differs: tuple[Differs, ...]
    """Its numbers that are not bitwise equal to the stored ones."""


@dataclass(frozen=True)
class Otherwise:
    """A new training that ended in another way than the trial did."""

    round: int
    stored: str
    again: str


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison."""

    equal: bool
    """True if all numbers are equal within the tolerance."""
    difference: str
    """The first difference beyond the tolerance. If there is none, the largest difference within
    it, or "" if all numbers are bitwise equal."""


def judge(steps: Iterable[Step | Otherwise], tolerance: float | None) -> Verdict:
    """Return the verdict on the rounds that were trained again.

    Without a tolerance, every number must be bitwise equal to the stored one.
    """
    largest: Differs | None = None
    for step in steps:
        if isinstance(step, Otherwise):
            message = f"round {step.round}: stored: {step.stored}; again: {step.again}"
            return Verdict(equal=False, difference=message)
        for number in step.differs:
            if tolerance is None or number.apart > tolerance:
                values = f"stored {number.stored!r}, again {number.again!r}"
                message = f"round {number.round}, {number.column}: {values}"
                return Verdict(equal=False, difference=message)
            largest = max(largest or number, number, key=lambda differs: differs.apart)
    if largest is None:
        return Verdict(equal=True, difference="")
    message = f"{largest.column} of round {largest.round}, by {largest.apart:.3g}"
    return Verdict(equal=True, difference=message)


def asked_rounds(record: Record, limit: int | None) -> int:
    """Return the number of stored rounds to train again. `limit` None: all of them."""
    last: int = record.rounds[-1]["round"] if record.rounds else 0
    return min(limit or last, last)


def to_diverge(record: Record, rounds: int) -> bool:
    """Return whether the trial diverged in the round after these rounds."""
    return record.failure is FailureKind.DIVERGED and rounds == asked_rounds(record, None)


def same_kind_of_device(record: Record) -> str:
    """Return a device of this machine, of the kind that computed the stored rounds.

    Raises:
        DeviceError: it was a GPU, and this machine has none.

    """
    if not record.numerics.get("cuda"):
        return "cpu"
    try:
        return device.devices("cuda")[0]
    except DeviceError as error:
        raise DeviceError(
            f"trial {record.trial_id} was trained on a GPU ({record.numerics['processor']}), and "
            "there is none here: verify it where there is one, or compare what the processor "
            "gives, with --device cpu --tolerance 1e-3"
        ) from error


def threads_of(record: Record) -> int:
    """Return the number of torch's threads that computed the stored rounds. On a GPU, where no
    result depends on it, it is 1.
    """
    return int(record.numerics["threads"] or 1)


def engine_of(record: Record, on: str) -> str:
    """Return the engine to ask for on a device: a GPU takes the one of the stored rounds."""
    name = record.numerics["engine"].partition("/")[0]
    return name if name in ENGINES and not on.startswith("cpu") else AUTO


def configured(record: Record) -> TrainConfig:
    """Return the trial's configuration.

    Raises:
        PackageMissing: this machine lacks a package of the trial's model or normalizer.
        RequestError: the trial was planned under an earlier recipe.

    """
    packages.require_packages(record.trial_id, record.config)
    config = TrainConfig(**record.config)
    try:
        check_recipe(record.trial_id, config)
    except ValueError as error:
        raise RequestError(str(error)) from error
    return config


def other_numerics(record: Record, current: Mapping[str, str]) -> list[Field]:
    """Return the fields in which this machine's numerics differ from those of the stored rounds."""
    names = [*record.numerics, *(name for name in current if name not in record.numerics)]
    fields = [Field(n, record.numerics.get(n, ""), current.get(n, "")) for n in names]
    return [field for field in fields if field.stored != field.current]


def compare(
    record: Record, config: TrainConfig, place: Place, rounds: int
) -> Iterator[Step | Otherwise]:
    """Train the first rounds again, and yield the comparison of each.

    A trial that diverged must diverge again in the same round. Nothing follows an `Otherwise`.

    Raises:
        RequestError: the trial cannot be trained on this machine.

    """
    again = training.train_again(config, place, record.data_fingerprint)
    stored = {row["round"]: row for row in record.rounds}
    diverged = to_diverge(record, rounds)
    number = 0
    try:
        for measured in again:
            number = measured.round
            if number > rounds:
                yield Otherwise(number, record.error or "it diverged", "it does not diverge")
                return
            if number not in stored:
                yield Otherwise(number, "nothing is stored", "it is trained")
                return
            scores = record.clients.get(number, {})
            yield Step(measured, tuple(differences(stored[number], scores, measured)))
            if number == rounds and not diverged:
                return
    except TrialFailed as failure:
        if failure.kind != FailureKind.DIVERGED:
            raise RequestError(
                f"trial {record.trial_id} cannot be trained again here ({failure.kind}): {failure}"
            ) from failure
        if number < rounds:
            yield Otherwise(number + 1, "it is stored", str(failure))
        elif str(failure) != record.error:
            yield Otherwise(number + 1, record.error or "it diverged", str(failure))
