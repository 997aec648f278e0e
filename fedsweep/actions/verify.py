"""Train a trial again, and compare it with its stored rounds. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Engine

from fedsweep import verification
from fedsweep.errors import RequestError
from fedsweep.execution import training
from fedsweep.execution.device import devices
from fedsweep.execution.place import Place
from fedsweep.plans import TrainConfig
from fedsweep.store import trial_record, trial_rows
from fedsweep.store.transactions import reading
from fedsweep.store.trial_record import Record
from fedsweep.verification import Otherwise, Step, Verdict


@dataclass(frozen=True)
class Comparison:
    """A trial, and the place at which it is trained again."""

    record: Record
    config: TrainConfig
    place: Place
    numerics: Mapping[str, str]
    """The numerics of this place."""
    rounds: int
    """The number of rounds to compare."""
    difference: str
    """The numerics that differ from those of the stored rounds; "" if they agree."""

    @property
    def seconds(self) -> float:
        """Seconds that the stored rounds took."""
        return float(sum(row["seconds"] for row in self.record.rounds[: self.rounds]))

    @property
    def diverges(self) -> bool:
        """True if the stored trial diverged after these rounds."""
        return verification.to_diverge(self.record, self.rounds)


def prepare(
    engine: Engine,
    prefix: str,
    *,
    device: str | None = None,
    threads: int | None = None,
    data: Path | None = None,
    rounds: int | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Return the comparison of a trial; by default all its rounds on the same kind of device.

    Raises:
        NotFound: There is no such trial.
        RequestError: It cannot be trained here, or its numerics differ and there is no tolerance.

    """
    with reading(engine) as connection:
        key, _ = trial_rows.find_trial(connection, prefix)
        record = trial_record.trial_record(connection, key)
    config = verification.configured(record)
    name = devices(device)[0] if device else verification.same_kind_of_device(record)
    place = Place(
        device=name,
        engine=verification.engine_of(record, name),
        threads=threads or verification.threads_of(record),
        data=data,
    )
    numerics = training.numerics_of(config, place)
    fields = verification.other_numerics(record, numerics)
    difference = "; ".join(
        f"{f.name} is {f.current or 'none'} here and was {f.stored or 'none'}" for f in fields
    )
    if difference and tolerance is None:
        raise RequestError(
            f"trial {record.trial_id} cannot be compared here bit by bit: {difference}: verify it "
            "where they agree, or compare approximately with --tolerance 1e-6"
        )
    count = verification.asked_rounds(record, rounds)
    return Comparison(record, config, place, numerics, count, difference)


def compare(
    comparison: Comparison, tolerance: float | None, advance: Callable[[int, float], None]
) -> Verdict:
    """Train the rounds again, and return whether they are equal.

    `advance` is called after each round with its number and the seconds that are left.
    """
    steps = verification.compare(
        comparison.record, comparison.config, comparison.place, comparison.rounds
    )
    return verification.judge(_with_progress(steps, comparison, advance), tolerance)


def _with_progress(
    steps: Iterable[Step | Otherwise], comparison: Comparison, advance: Callable[[int, float], None]
) -> Iterator[Step | Otherwise]:
    """Yield the steps; estimate the seconds left from the ratio of new to stored seconds."""
    stored = {row["round"]: row["seconds"] for row in comparison.record.rounds[: comparison.rounds]}
    stored_seconds = seconds = 0.0
    whole = sum(stored.values())
    for step in steps:
        if isinstance(step, Step):
            stored_seconds += stored.get(step.round.round, 0.0)
            seconds += step.round.seconds
            ratio = seconds / stored_seconds if stored_seconds > 0 else 1.0
            advance(step.round.round, (whole - stored_seconds) * ratio)
        yield step
