"""The two databases of a copy or a merge: the first is only read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep.errors import RequestError
from fedsweep.store import artifacts, file_places, schema, trust
from fedsweep.store.identity import is_store_name
from fedsweep.store.readonly import open_to_read
from fedsweep.store.tables import (
    identity,
    sweeps,
    trials,
    weights,
)
from fedsweep.store.transactions import ARGUMENT


@contextlib.contextmanager
def both(
    source: str, target: str, *, names: tuple[str, str], create: bool = False
) -> Iterator[tuple[Engine, Engine]]:
    """Open the stores of two URLs. The first one is only read: not even a schema is created
    in it.

    Raises:
        StoreError: one is missing, unreachable, foreign, older or newer. The message names it by
            its argument.

    """
    with contextlib.ExitStack() as until_done:
        source_engine = _named(names[0], open_to_read, source)
        until_done.callback(source_engine.dispose)
        target_engine = _named(names[1], lambda url: schema.open_store(url, create=create), target)
        until_done.callback(target_engine.dispose)
        yield source_engine, target_engine


def _named(name: str, open_one: Callable[[str], Engine], url: str) -> Engine:
    """Name this argument instead of --db in the errors about its database."""
    try:
        opened = open_one(url)
    except RequestError as error:
        message = str(error).replace("--db", name)
        raise type(error)(message if name in message else f"{name}: {message}") from error
    opened.update_execution_options(**{ARGUMENT: name})
    return opened


def share_approvals(source: Connection, target: Connection) -> None:
    """Approve the places of FROM's files for the database to write, if this user approved them.

    The files stay in their places.

    Raises:
        RequestError: weights of FROM are in a place that is not approved, and would be left out.

    """
    own = target.execute(sa.select(identity.c.id)).scalars().first()
    kept = sa.exists().where(weights.c.trial == trials.c.id, trials.c.sweep == sweeps.c.id)
    needed = set(source.execute(sa.select(sweeps.c.artifacts).where(kept)).scalars())
    for home in file_places.places(source):
        refusal = artifacts.folder_of(source.engine.url, home).refusal
        if isinstance(refusal, artifacts.Unapproved) and home.artifacts in needed:
            raise RequestError(f"weights of FROM cannot be read: {refusal} (--db FROM)")
        if refusal is None and home.artifacts is not None and own and is_store_name(own):
            with contextlib.suppress(OSError):
                trust.approve(str(own), home.artifacts)
