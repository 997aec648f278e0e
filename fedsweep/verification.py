"""A trial trained again from scratch, and compared with what is stored of it. Nothing is written.

The same bits are promised under the same numerics alone: see `trainers.numerics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fedsweep.errors import DeviceError, RequestError, TrialFailed
from fedsweep.execution import device, packages, training
from fedsweep.execution.place import Place
from fedsweep.plan import Round, TrainConfig, check_recipe
from fedsweep.states import FailureKind
from fedsweep.store.round_difference import Differs, differences
from fedsweep.store.trial_record import Record


@dataclass(frozen=True)
class Field:
    """A part of the numerics that is another one here."""

    name: str
    there: str
    """Where the stored rounds were computed; "" for none."""
    here: str


@dataclass(frozen=True)
class Step:
    """A round that was trained again."""

    round: Round
    differs: tuple[Differs, ...]
    """Its numbers that are not the stored ones, to the last bit."""


@dataclass(frozen=True)
class Otherwise:
    """Training again ended in another way than the trial did."""

    round: int
    stored: str
    again: str


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison."""

    equal: bool
    """Within the tolerance."""
    says: str
    """What is not equal first; or of what is near enough the farthest, "" where nothing is off."""


def judge(steps: Iterable[Step | Otherwise], tolerance: float | None) -> Verdict:
    """Equal where every number is the stored one to the last bit; or no farther off than that."""
    farthest: Differs | None = None
    for step in steps:
        if isinstance(step, Otherwise):
            says = f"round {step.round}: stored: {step.stored}; again: {step.again}"
            return Verdict(equal=False, says=says)
        for found in step.differs:
            if tolerance is None or found.apart > tolerance:
                values = f"stored {found.stored!r}, again {found.again!r}"
                says = f"round {found.round}, {found.column}: {values}"
                return Verdict(equal=False, says=says)
            farthest = max(farthest or found, found, key=lambda differs: differs.apart)
    if farthest is None:
        return Verdict(equal=True, says="")
    says = f"{farthest.column} of round {farthest.round}, by {farthest.apart:.3g}"
    return Verdict(equal=True, says=says)


def asked_rounds(record: Record, limit: int | None) -> int:
    """How many of the stored rounds are to be trained again."""
    last: int = record.rounds[-1]["round"] if record.rounds else 0
    return min(limit or last, last)


def to_diverge(record: Record, rounds: int) -> bool:
    """Whether the trial diverged behind these rounds."""
    return record.failure is FailureKind.DIVERGED and rounds == asked_rounds(record, None)


def same_kind_of_device(record: Record) -> str:
    """A device here of the kind that the stored rounds were computed on.

    Raises:
        DeviceError: it was a GPU, and there is none here.

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
    """Torch's threads that the stored rounds were computed with."""
    return int(record.numerics["threads"])


def configured(record: Record) -> TrainConfig:
    """The trial's configuration.

    Raises:
        PackageMissing: it cannot be trained on this machine.
        RequestError: it was planned under an earlier recipe.

    """
    packages.require_packages(record.trial_id, record.config)
    config = TrainConfig(**record.config)
    try:
        check_recipe(record.trial_id, config)
    except ValueError as error:
        raise RequestError(str(error)) from error
    return config


def other_numerics(record: Record, here: Mapping[str, str]) -> list[Field]:
    """Where this machine's numerics are not those of the stored rounds."""
    names = [*record.numerics, *(name for name in here if name not in record.numerics)]
    fields = [Field(n, record.numerics.get(n, ""), here.get(n, "")) for n in names]
    return [field for field in fields if field.there != field.here]


def compare(
    record: Record, config: TrainConfig, place: Place, rounds: int
) -> Iterator[Step | Otherwise]:
    """Train the first rounds again, and say of each how it compares; a trial that diverged must
    diverge again where it did. `Otherwise` is the last word.

    Raises:
        RequestError: it cannot be trained here; nothing is said about the trial.

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
