"""Read the results of searches, and export searches as Optuna studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection, Engine

from fedsweep.errors import NotFound, RequestError
from fedsweep.reports.search_results import read_search_results
from fedsweep.store import arms, sweep_rows
from fedsweep.store.targets import refuse_own
from fedsweep.store.transactions import reading

if TYPE_CHECKING:
    from fedsweep.reports.search_results import SearchResult


def find(engine: Engine, sweep: str | None = None, arm: str | None = None) -> list[SearchResult]:
    """Return the findings of each arm of a sweep, or of all sweeps (None).

    With `arm`, return only the arms whose id begins with it.

    Raises:
        NotFound: There is no such sweep, or no sweep searches.
        RequestError: There is no such arm.

    """
    with reading(engine) as connection:
        every = [
            finding
            for name in _searching_sweeps(connection, sweep)
            for finding in read_search_results(connection, name)
        ]
    if arm is None:
        return every
    selected = [finding for finding in every if finding.arm.spec.arm_id.startswith(arm)]
    if not selected:
        ids = ", ".join(finding.arm.spec.arm_id[:8] for finding in every)
        raise RequestError(f"there is no arm {arm!r}: there are {ids}")
    return selected


def export(engine: Engine, storage: str, sweep: str | None = None) -> list[tuple[str, int]]:
    """Write each arm as an Optuna study; return the name of each study and its trials.

    Raises:
        NotFound: There is no such sweep, or no sweep searches.
        RequestError: The storage cannot be used, or belongs to a fedsweep database.

    """
    from fedsweep.search.export import export as write

    refuse_own(engine, storage, "--storage")
    with reading(engine) as connection:
        return [
            write(connection, arm, storage)
            for name in _searching_sweeps(connection, sweep)
            for arm in arms.of_sweep(connection, name)
        ]


def _searching_sweeps(connection: Connection, sweep: str | None) -> list[str]:
    """Return the named sweep, or all sweeps that have a [search] section."""
    names = sweep_rows.named_or_all(connection, sweep)
    searching = [name for name in names if arms.of_sweep(connection, name)]
    if not searching:
        which = f"sweep {sweep} has no" if sweep else "no sweep here has a"
        raise NotFound(f"{which} [search] section: nothing is searched")
    return searching
