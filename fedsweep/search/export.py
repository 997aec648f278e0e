"""Export an arm as a study of Optuna, for tools such as optuna-dashboard."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import RequestError, hide_secrets
from fedsweep.search.choice import Probe
from fedsweep.search.planner import history_of
from fedsweep.store import arms
from fedsweep.store.arms import Arm, Proposal
from fedsweep.store.tables import attempts, proposed, rounds, trials


def export(connection: Connection, arm: Arm, storage: str) -> tuple[str, int]:
    """Write the study of an arm, with a trial for each T*. A previous study is deleted.

    Returns the name of the study and its number of trials.

    Raises:
        RequestError: the storage cannot be opened.

    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = f"{arm.sweep_name} / {arm.spec.arm_id[:8]}"
    history = history_of(arms.tried(connection, arm))
    proposals = {
        p.freeze_round: p
        for p in arms.proposals_of(connection, arm.key)
        if p.freeze_round is not None and p.seed is None
    }
    curves, times = _curves(connection, arm), _times(connection, arm)
    try:
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    except Exception as error:  # Optuna raises the errors of its drivers
        message = hide_secrets(" ".join(str(error).split()))[:200]
        raise RequestError(
            f"--storage {hide_secrets(storage)} cannot be used: {message}"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metric names are an experimental feature of Optuna
        study.set_metric_names([arm.spec.search.metric])
    fields = arm.spec.config.model_dump(exclude_none=True, exclude={"seed", "freeze_round"})
    for key, value in {**fields, "standing": arm.ended or "searching", "said": arm.said}.items():
        study.set_user_attr(key, value)
    for probe in history:
        at = times.get(probe.freeze_round, (None, None))
        study.add_trial(_trial(arm, probe, proposals.get(probe.freeze_round), curves, at))
    return name, len(history)


def _trial(
    arm: Arm,
    probe: Probe,
    proposal: Proposal | None,
    curves: Mapping[int, Mapping[int, float]],
    at: tuple[float | None, float | None],
) -> Any:
    """Return the trial of a T*. Its value is the mean over the seeds that have ended."""
    import optuna
    from optuna.trial import TrialState

    spec, values = arm.spec, list(probe.values.values())
    state = TrialState.COMPLETE if values else TrialState.FAIL
    state = TrialState.PRUNED if probe.pruned else state
    state = TrialState.RUNNING if probe.pending else state
    distribution = optuna.distributions.IntDistribution(spec.low, spec.points[-1], step=spec.step)
    trial = optuna.trial.create_trial(
        state=state,
        value=sum(values) / len(values) if values and not probe.pending else None,
        params={"freeze_round": probe.freeze_round},
        distributions={"freeze_round": distribution},
        intermediate_values=dict(curves.get(probe.freeze_round, {})),
        user_attrs={
            "values by seed": {str(seed): v for seed, v in sorted(probe.values.items())},
            "diverged seeds": sorted(probe.diverged),
            "why": proposal.why if proposal else "",
            "rounds": proposal.cost if proposal else 0,
        },
    )
    began, ended = at
    if began is not None:
        trial.datetime_start = _local(began)
    if trial.state.is_finished():
        trial.datetime_complete = _local(ended) if ended is not None else trial.datetime_start
    return trial


def _local(at: float) -> datetime:
    """Return a local time without a time zone, as Optuna stores times."""
    return datetime.fromtimestamp(at)  # noqa: DTZ006  # the form that Optuna expects


def _times(connection: Connection, arm: Arm) -> dict[int, tuple[float, float]]:
    """Return when the first attempt at each T* began and the last one ended."""
    query = (
        sa.select(
            trials.c.freeze_round,
            sa.func.min(attempts.c.started_at).label("began"),
            sa.func.max(attempts.c.ended_at).label("ended"),
        )
        .join(proposed, proposed.c.trial == trials.c.id)
        .join(attempts, attempts.c.trial == trials.c.id)
        .where(proposed.c.arm == arm.key, trials.c.normalizer == "fixbn")
        .group_by(trials.c.freeze_round)
    )
    return {row.freeze_round: (row.began, row.ended) for row in connection.execute(query)}


def _curves(connection: Connection, arm: Arm) -> dict[int, dict[int, float]]:
    """Return the mean of the metric by T* and round, over the trials that measured it."""
    value = rounds.c[arm.spec.search.metric]
    query = (
        sa.select(trials.c.freeze_round, rounds.c.round, sa.func.avg(value).label("mean"))
        .join(proposed, proposed.c.trial == trials.c.id)
        .join(rounds, rounds.c.trial == trials.c.id)
        .where(
            proposed.c.arm == arm.key, trials.c.normalizer == "fixbn", value.is_not(None),
            trials.c.seed.in_(arm.spec.seeds),
        )
        .group_by(trials.c.freeze_round, rounds.c.round)
        .order_by(trials.c.freeze_round, rounds.c.round)
    )  # fmt: skip
    curves: dict[int, dict[int, float]] = {}
    for row in connection.execute(query):
        curves.setdefault(row.freeze_round, {})[row.round] = float(row.mean)
    return curves
