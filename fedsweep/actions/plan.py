"""Read a plan file, forecast what it costs, and store its trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.actions.explain import KeyFacts, explain
from fedsweep.errors import RequestError
from fedsweep.execution import sizes
from fedsweep.execution.data import holdings, look_at_data
from fedsweep.execution.data_facts import DataFacts, data_facts
from fedsweep.execution.packages import pin_code
from fedsweep.execution.weights import pin_weights
from fedsweep.plans import SweepSpec, Trials, most_forks, own_rounds, read_document, read_plan
from fedsweep.store import arms, file_index, planning, progress, sweep_rows, trust
from fedsweep.store.artifacts import parse
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.engine import parse_url
from fedsweep.store.identity import store_name
from fedsweep.store.planning import Planned
from fedsweep.store.targets import is_file_of
from fedsweep.store.transactions import reading, transaction

FIGURE_KINDS = (".png", ".svg", ".pdf")
"""Endings of the file names of the partition's figure."""

ROW_BYTES = 150
"""Approximate bytes of a stored round in the database."""
CLIENT_BYTES = 40
"""Approximate bytes of one client's row of a round in the database."""


@dataclass(frozen=True)
class PlanRead:
    """A plan file as it was read."""

    sweep: SweepSpec
    notes: Sequence[str]
    """Sentences about the data sets on disk."""
    is_data_unseen: bool
    """True if a data set was not on this machine, so that its content is not pinned."""
    artifacts: str | None
    """The place for the sweep's files in the spelling of the database; None if none is named."""
    data: Sequence[DataFacts]
    """The data sets whose samples are known."""
    keys: Sequence[KeyFacts]
    """All keys, with their values."""


@dataclass(frozen=True)
class Added:
    """The change that a plan made in the database."""

    planned: Planned
    arms: int
    """Arms to search that are new or changed."""
    unapproved: OSError | None
    """The reason why this user's approval of the place for files could not be stored."""


@dataclass(frozen=True)
class SearchForecast:
    """The limits of the searches of a plan."""

    arms: int
    rounds: int
    """The most rounds that the searches train, trunks included."""
    grid_rounds: int
    """The rounds that all points of all arms would take."""
    trunk_bytes: int
    """The most bytes of snapshots for each trunk that is searched."""


@dataclass(frozen=True)
class PlanForecast:
    """The cost of the trials that a plan would add."""

    new: int
    kept: int
    rounds: int
    """Rounds to train, each shared round once."""
    saved: int
    """Rounds that trials share, and that are not trained again."""
    seconds: float | None
    """Seconds of one slot for the trials whose kind was measured; None if no kind was."""
    unmeasured: int
    """New trials of a kind that was never measured."""
    row_bytes: int
    weight_bytes: int
    """Bytes of the final weights that are kept."""
    snapshot_bytes: int
    """Bytes of the largest snapshot of a running trial."""
    unsized: Sequence[str]
    """Models whose size is not known. Their snapshots and weights are not in these numbers."""
    forks: int
    """The most snapshots that one shared trunk needs; 0 if no trials share one."""
    search: SearchForecast | None
    """None if the plan searches nothing."""


@dataclass(frozen=True)
class PartitionFigure:
    """The number of partitions in a figure."""

    drawn: int
    left_out: int


def read(
    source: Path | Mapping[str, Any],
    settings: Sequence[str],
    permit: Callable[[int], None],
    *,
    url: str,
    data: Path | None = None,
    share: bool = True,
    artifacts: str | None = None,
    figure: Path | None = None,
) -> PlanRead:
    """Read a plan file or a plan as a dictionary, and check it with this machine's data sets.

    `permit` is called with the number of points before they are built, and may raise. Without
    `share`, trials do not share their first rounds. `figure` is the file of the partition's figure.

    Raises:
        PlanError: The plan is wrong, its data cannot be split as planned, or its weights or the
            code of another package cannot be read.
        RequestError: `artifacts` or `figure` cannot be used.

    """
    file = source if isinstance(source, Path) else None
    if isinstance(source, Path):
        sweep = read_plan(source, settings, permit)
    else:
        sweep = read_document(source, settings, permit)
    place = None if artifacts is None else parse(artifacts)
    if figure is not None:
        _check_figure(figure, url)
    notes: list[str] = []
    sweep = pin_weights(pin_code(sweep), data)
    sweep, is_unseen, stocks = look_at_data(sweep, data, file, notes.append)
    facts, keys = data_facts(sweep, stocks), explain(sweep, settings)
    return PlanRead(sweep if share else sweep.alone(), notes, is_unseen, place, facts, keys)


def _check_figure(path: Path, url: str) -> None:
    """Refuse a file of another kind, and the database itself."""
    if path.suffix.lower() not in FIGURE_KINDS:
        raise RequestError(
            f"--show-partition {path} is none of {', '.join(FIGURE_KINDS)}: end its name in one"
        )
    store = sqlite_file(parse_url(url))
    if store is not None and is_file_of(store, path):
        raise RequestError("--show-partition is fedsweep's own database: name another file")


@contextmanager
def partition_figure(sweep: SweepSpec, data: Path | None, path: Path) -> Iterator[PartitionFigure]:
    """Draw the clients' data; the figure goes to the path when the block ends without an error.

    Raises:
        PlanError: No trial of the sweep has clients.
        RequestError: The file cannot be written.

    """
    from fedsweep.reports import partition_figure as figures

    partitions = figures.distinct(sweep)
    panels = holdings(partitions[: figures.MOST_PANELS], data)
    with figures.drawn(panels, path):
        yield PartitionFigure(len(panels), len(partitions) - len(panels))


def add(
    engine: Engine, sweep: SweepSpec, *, priority: int = 0, artifacts: str | None = None
) -> Added:
    """Add a sweep's trials and arms, and queue its cancelled trials again.

    Trials that the database has are kept as they are. This user's workers may use `artifacts`.
    """
    with transaction(engine) as connection:
        planned, searched = add_within(connection, sweep, priority)
        if artifacts is not None:
            file_index.put_files(connection, sweep.name, artifacts)
        name = store_name(connection)
    return Added(planned, searched, None if artifacts is None else _approve(name, artifacts))


def add_within(connection: Connection, sweep: SweepSpec, priority: int = 0) -> tuple[Planned, int]:
    """Add a sweep within the caller's transaction; return the change and the arms to search."""
    planned = planning.add_sweep(connection, sweep, priority)
    searched = arms.add_arms(connection, sweep, priority)
    if planned.cancelled:
        queue.retry(connection, sweep_rows.trial_keys(connection, planned.cancelled))
    queue.planned(connection, sweep.name, sweep.budget)
    return planned, searched


def _approve(store: str, place: str) -> OSError | None:
    """Approve the place for this user's workers; return the error if that cannot be stored."""
    try:
        trust.approve(store, place)
    except OSError as error:
        return error
    return None


def forecast(engine: Engine | None, sweep: SweepSpec) -> PlanForecast:
    """Return the cost of the trials that the database does not have yet.

    The engine is None if there is no database yet.
    """
    trials = Trials.of(sweep.trials)
    kept: set[str] = set()
    costs: dict[tuple[object, ...], float] = {}
    if engine is not None:
        with reading(engine) as connection:
            kept = sweep_rows.present(connection, trials.ids)
            costs = progress.seconds_a_round(connection)
    new = trials.without(kept)
    own = own_rounds(new)
    rates = [costs.get(progress.cost_key(config)) for config in new.configs]
    known = [rate * rounds for rate, rounds in zip(rates, own, strict=True) if rate is not None]
    return PlanForecast(
        new=len(new),
        kept=len(kept),
        rounds=sum(own),
        saved=sum(config.rounds for config in new.configs) - sum(own),
        seconds=sum(known) if known else None,
        unmeasured=len(new) - len(known),
        row_bytes=sum(
            c.rounds * (ROW_BYTES + CLIENT_BYTES * c.client_accuracy * (c.clients or 1))
            for c in new.configs
        ),
        weight_bytes=sizes.weights_bytes(new.configs),
        snapshot_bytes=sizes.snapshot_bytes(new.configs),
        unsized=sizes.unknown(new.configs),
        forks=most_forks(new),
        search=_search_forecast(sweep) if sweep.arms else None,
    )


def _search_forecast(sweep: SweepSpec) -> SearchForecast:
    rounds = 0
    for arm in sweep.arms:
        points = min(arm.search.probes_per_arm, len(arm.points))
        rounds_per_seed = points * arm.config.rounds
        if arm.rounds_per_seed is not None:
            rounds_per_seed = min(rounds_per_seed, arm.rounds_per_seed)
        rounds += rounds_per_seed * len(arm.seeds)
    forks = max(len(arm.points) for arm in sweep.arms)
    return SearchForecast(
        arms=len(sweep.arms),
        rounds=rounds,
        grid_rounds=sum(len(arm.points) * arm.config.rounds * len(arm.seeds) for arm in sweep.arms),
        trunk_bytes=forks * sizes.snapshot_bytes([arm.config for arm in sweep.arms]),
    )
