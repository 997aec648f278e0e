"""The Python interface: `import fedsweep`, then plan, work, and read results as data frames.

Each function does what the command of the same name does, with the same code. The database is
the argument `db`, otherwise `$FEDSWEEP_DB`, otherwise `sqlite:///fedsweep.db` in the working
folder. The data are in the folder `data`, otherwise in `$FEDSWEEP_DATA`.

Every error is a `fedsweep.errors.FedsweepError` with one sentence.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsweep import settings
from fedsweep.errors import FedsweepError

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.engine import Engine

    from fedsweep.actions.report import Report as Gathered
    from fedsweep.plans import Round
    from fedsweep.worker import Tally, WorkStatus

Source = Mapping[str, Any] | str | os.PathLike[str]
"""A plan: the path of a file, or a dictionary with the tables and keys of such a file."""

FRAME_HEIGHT = 720
"""Height of a report in a notebook, in pixels."""


@dataclass(frozen=True)
class Planned:
    """The change that a plan made in the database."""

    sweep: str
    """The sweep's name."""
    new: int
    """Trials that the database did not have."""
    kept: int
    """Trials of the plan that it had already."""
    arms: int
    """Arms to search that are new or changed."""
    notes: tuple[str, ...] = ()
    """Sentences about the data."""


def plan(
    source: Source,
    db: str | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # the option's name
    data: str | os.PathLike[str] | None = None,
    priority: int = 0,
    share: bool = True,
    artifacts: str | None = None,
) -> Planned:
    """Add the trials of a plan to a database, as `fedsweep plan` does.

    `set` fixes keys for all trials. Without `share`, no trials share their first rounds.

    >>> planned = fedsweep.plan(
    ...     {
    ...         "name": "first",
    ...         "protocol": {
    ...             "dataset": "digits",
    ...             "model": "cnn",
    ...             "clients": 10,
    ...             "alpha": 0.1,
    ...             "rounds": 24,
    ...             "local_steps": 5,
    ...             "batch_size": 20,
    ...             "lr": 0.05,
    ...         },
    ...         "grid": [{"normalizer": ["bn", "gn"], "seed": [0, 1, 2]}],
    ...     }
    ... )  # doctest: +SKIP

    Raises:
        PlanError: the plan is wrong, or its data cannot be split as planned. Nothing is written.
        StoreError: the database cannot be used.

    """
    from fedsweep.actions import plan as plans
    from fedsweep.store import schema

    url = settings.database(db)
    with _in_python():
        read = plans.read(
            _plan_of(source),
            _overrides(set or {}),
            _permit,
            url=url,
            data=settings.data_folder(data),
            share=share,
            artifacts=artifacts,
        )
        engine = schema.open_store(url, create=True)
        try:
            added = plans.add(engine, read.sweep, priority=priority, artifacts=read.artifacts)
        finally:
            engine.dispose()
    change = added.planned
    return Planned(read.sweep.name, change.new, change.kept, added.arms, tuple(read.notes))


def work(
    db: str | None = None,
    *,
    sweep: str | None = None,
    device: str = "auto",
    slots: int | str = "auto",
    threads: int = 1,
    engine: str = "auto",
    until_empty: bool = True,
    max_trials: int | None = None,
    max_hours: float | None = None,
    max_attempts: int = 3,
    data: str | os.PathLike[str] | None = None,
    lease: float = 15.0,
    grace: float = 20.0,
    artifacts: tuple[str, ...] = (),
    notify: tuple[str, ...] = (),
    show: bool = True,
) -> Tally:
    """Claim and train trials until none is left, as `fedsweep work --until-empty` does.

    With `show`, it prints a line for each ended trial. Processes of their own train the trials.
    An interrupt (Ctrl-C, or a notebook's stop button) saves them after the round and gives them
    back.

    Returns the counts of this run: finished, failed, released, lost.

    Raises:
        FedsweepError: the database cannot be used, or no trial can be trained here.

    """
    from fedsweep import worker
    from fedsweep.actions import work as actions
    from fedsweep.store.trust import VARIABLE

    def print_end(view: WorkStatus) -> None:
        if show and view.ended is not None:
            print(actions.ended_line(view), flush=True)

    with _in_python():
        options = actions.options(
            settings.database(db),
            device,
            slots=str(slots),
            threads=threads,
            engine=engine,
            sweep=sweep,
            until_empty=until_empty,
            max_trials=max_trials,
            max_hours=max_hours,
            max_attempts=max_attempts,
            data=settings.data_folder(data),
            lease=lease,
            grace=grace,
            artifacts=artifacts,
            artifacts_variable=settings.setting(VARIABLE),
            notify=notify,
        )
        return worker.work(options, print_end)


def results(db: str | None = None, *, sweep: str | None = None) -> pd.DataFrame:
    """Return the view `results`, one row per trial, of a sweep or of all.

    Raises:
        PackageMissing: pandas is not installed: pip install 'fedsweep[tables]'.
        NotFound: there is no such sweep.

    """
    return _frame("results", db, sweep)


def curves(db: str | None = None, *, sweep: str | None = None) -> pd.DataFrame:
    """Return the view `curves`, one row per trial and round, of a sweep or of all.

    Raises:
        PackageMissing: pandas is not installed: pip install 'fedsweep[tables]'.
        NotFound: there is no such sweep.

    """
    return _frame("curves", db, sweep)


def cells(db: str | None = None, *, sweep: str | None = None) -> pd.DataFrame:
    """Return the view `cells`, the mean and deviation over seeds, of a sweep or of all.

    Raises:
        PackageMissing: pandas is not installed: pip install 'fedsweep[tables]'.
        NotFound: there is no such sweep.

    """
    return _frame("cells", db, sweep)


class Report:
    """A report on sweeps. A notebook shows it as a page; `str` gives its tables as Markdown."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered

    def __str__(self) -> str:
        from fedsweep.actions import report as reports

        return reports.markdown(self._gathered)

    def __repr__(self) -> str:
        names = ", ".join(one.summary.sweep for one in self._gathered.sweeps)
        return f"<report on {names}>"

    def html(self) -> str:
        """Return the page, complete in itself, as `fedsweep report --format html` writes it."""
        from fedsweep.actions import report as reports

        return reports.html(self._gathered)

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="Report" sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {FRAME_HEIGHT}px; border: 0"></iframe>'
        )


def report(
    db: str | None = None,
    *,
    sweep: str | None = None,
    where: tuple[str, ...] | str = (),
    group_by: str | None = None,
    metric: str | None = None,
    baseline: str | None = None,
    tune: str | None = None,
    interval: bool = False,
) -> Report:
    """Return the report on a sweep, or on all, with the options of `fedsweep report`.

    Raises:
        NotFound: there is no such sweep, or nothing is planned.
        RequestError: an option names a field, a condition or a measure that does not exist.

    """
    from dataclasses import replace

    from fedsweep.actions import report as reports

    conditions = (where,) if isinstance(where, str) else where
    with _in_python(), _reading(db) as engine:
        question = reports.question(conditions, group_by, metric, baseline, tune, interval=interval)
        return Report(reports.gather(engine, sweep, replace(question, figures=True)))


def train(
    config: Mapping[str, Any],
    *,
    device: str = "auto",
    threads: int = 1,
    engine: str = "auto",
    data: str | os.PathLike[str] | None = None,
) -> Iterator[Round]:
    """Train one trial without a database, and yield its rounds.

    `config` has the keys of a plan's `[protocol]`, one value each.

    >>> for round in fedsweep.train({"dataset": "digits", ...}):  # doctest: +SKIP
    ...     print(round.round, round.test_accuracy)

    Raises:
        PlanError: a key is wrong, or the data cannot be split; before the first round.
        TrialFailed: the trial diverged, or cannot be trained.

    """
    from fedsweep.execution import device as devices
    from fedsweep.execution import training
    from fedsweep.execution.place import Place

    with _in_python():
        trial = _only_trial(config, data)
        name = devices.devices(device)[0]
        place = Place(name, threads, settings.data_folder(data), engine)
        training.numerics_of(trial, place)
    return _rounds(training.train_again(trial, place))


def _rounds(rounds: Iterator[Round]) -> Iterator[Round]:
    with _in_python():
        yield from rounds


def _only_trial(config: Mapping[str, Any], data: str | os.PathLike[str] | None) -> Any:
    from fedsweep.actions import plan as plans

    document = {"name": "trial", "protocol": dict(config)}
    read = plans.read(
        document, (), _permit, url=settings.DEFAULT_URL, data=settings.data_folder(data)
    )
    return read.sweep.trials[0].config


def _plan_of(source: Source) -> Path | Mapping[str, Any]:
    return source if isinstance(source, Mapping) else Path(source)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values as the texts of `--set`."""
    from fedsweep.plans.toml_text import toml_text

    start = len("value = ")
    return [f"{key}={toml_text({'value': v})[start:].strip()}" for key, v in values.items()]


def _permit(_points: int) -> None:
    """Permit plans of any size: the caller has written the program."""


def _frame(view: str, db: str | None, sweep: str | None) -> pd.DataFrame:
    from fedsweep.actions.frames import frame

    with _in_python(), _reading(db) as engine:
        return frame(engine, view, sweep)


@contextmanager
def _reading(db: str | None) -> Iterator[Engine]:
    from fedsweep.actions.stores import read_store

    engine = read_store(settings.database(db))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _in_python() -> Iterator[None]:
    """Name an argument in an error where the command line would name its option."""
    try:
        yield
    except FedsweepError as error:
        if error.args:
            text = re.sub(r"(?<![\w-])--([a-z][a-z-]*)", _argument, str(error))
            error.args = (text, *error.args[1:])
        raise


def _argument(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")
