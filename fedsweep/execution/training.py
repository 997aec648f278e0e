"""Training with an engine, and the rounds as they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from fedsweep import measures
from fedsweep.errors import (
    DataMissing,
    FedsweepError,
    MachineError,
    TrialFailed,
)
from fedsweep.execution.data import sound_data
from fedsweep.execution.faults import failure_kind, machine_limit, one_line
from fedsweep.execution.place import Place
from fedsweep.plans import (
    Round,
    TrainConfig,
)
from fedsweep.provenance import provenance
from fedsweep.states import FailureKind
from trainers import engines
from trainers.engines import Diverged, choose, engine_of, find


def numerics_of(config: TrainConfig, place: Place, engine: str = "") -> dict[str, str]:
    """Set this process's arithmetic, and return the numerics under which a trial is computed.

    Results of equal numerics are bitwise equal. Without the name of an `engine`, it is the one that
    the place asks for.
    """
    trainer = find(engine) if engine else engine_of(place.engine)
    return trainer.numerics_of(config, place.device, place.threads)


def provenance_of(
    config: TrainConfig, place: Place, computed_under: Mapping[str, str]
) -> dict[str, Any]:
    """Return the code, packages and machine that a trial runs with, for its attempt's row."""
    trainer, processor = engine_of(), computed_under["processor"]
    memory, more = trainer.total_memory(place.device), trainer.packages(config)
    return provenance(processor, place.device, memory, more, packed=place.packed)


def train_again(
    config: TrainConfig, place: Place, fingerprint: str | None = None
) -> Iterator[Round]:
    """Train a trial from round 1 and yield its rounds. The data must have the fingerprint, if any.

    Nothing is stored.

    Raises:
        TrialFailed: the trial diverged, or cannot be trained.

    """
    trainer = engine_of()
    try:
        dataset = sound_data(config, place.data, fingerprint)
        trainer = find(choose(config, dataset, place.device, place.engine).engine)
        yield from map(stored_round, trainer.run(config, dataset, device=place.device))
    except Diverged as error:
        raise TrialFailed(FailureKind.DIVERGED, str(error)) from error
    except DataMissing as error:
        raise TrialFailed(FailureKind.BAD_DATA, str(error)) from error
    except FedsweepError:
        raise
    except Exception as error:
        if limit := machine_limit(error):
            raise MachineError(f"the trial cannot run here: {limit}") from error
        raise TrialFailed(failure_kind(error, trainer), one_line(error)) from error


def stored_round(measured: engines.Round) -> Round:
    """Return an engine's round as it is stored. Diagnostics that are not finite are left out."""
    values = {field.name: getattr(measured, field.name) for field in fields(Round)}
    values |= {name: _finite(values[name]) for name in measures.DIAGNOSTICS}
    return Round(**values)


def _finite(value: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    if isinstance(value, Mapping):
        return {layer: number for layer, number in value.items() if math.isfinite(number)}
    return value if value is not None and math.isfinite(value) else None
