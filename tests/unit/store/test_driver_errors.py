"""The translation of the drivers' errors, in every language of the server."""

from __future__ import annotations

import sqlite3
import time

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors as pg
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from fedsweep import errors
from fedsweep.store import driver_errors, engine, outage, transactions

SHOWN = "postgresql://u:***@h/n"
GERMAN = "FEHLER:  das geht gerade nicht\nDETAIL:  mehr"


def of_server(code: str, text: str = GERMAN) -> exc.DBAPIError:
    """Return an error as SQLAlchemy wraps it, with a message that no pattern matches."""
    original = psycopg.DatabaseError(text)
    original.sqlstate = code
    return exc.DBAPIError("SELECT 1", {}, original)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, errors.StoreUnreachable) for code in ("08000", "08006", "08P01", "25P03")),
        *((code, errors.StoreUnreachable) for code in ("57P01", "57P02", "57P03", "57P05")),
        *((code, errors.StoreUnreachable) for code in ("28P01", "3D000", "XX000", "F0001")),
        *((code, errors.StoreUnreachable) for code in ("26000", "42P05")),
        *((code, errors.StoreBusy) for code in ("53000", "53200", "53300", "53400", "57014")),
        *((code, errors.StoreBusy) for code in ("40001", "40P01", "55P03", "55006", "25P04")),
        *((code, errors.StoreFull) for code in ("53100", "58030", "58P01")),
        ("25006", errors.StoreHeld),
        ("42501", errors.StoreReadOnly),
        *((code, errors.StoreError) for code in ("XX001", "XX002")),
        *((code, None) for code in ("22001", "23505", "42601", "42P01", "P0001", "54000")),
    ],
)
def test_a_sqlstate_means_the_same_in_every_language(
    code: str, kind: type[Exception] | None
) -> None:
    """An outage, a busy server and a full disk are known. A fault of a statement stays one."""
    ours = driver_errors.translate(SHOWN, of_server(code))
    assert (None if ours is None else type(ours)) is kind
    assert ours is None or "\n" not in str(ours)


@pytest.mark.parametrize(
    "code", ["08006", "25006", "25P03", "40001", "53100", "53300", "57P03", "XX000"]
)
def test_a_worker_waits_until_an_outage_ends(code: str) -> None:
    """These errors end by themselves, or when a user frees space."""
    assert isinstance(driver_errors.translate(SHOWN, of_server(code)), outage.OUTAGE)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exc.OperationalError("", {}, psycopg.OperationalError(GERMAN)), errors.StoreUnreachable),
        (exc.InterfaceError("", {}, psycopg.InterfaceError(GERMAN)), errors.StoreUnreachable),
        (
            exc.OperationalError("", {}, psycopg.OperationalError("session is read-only")),
            errors.StoreStandby,
        ),
        (exc.PendingRollbackError(GERMAN), errors.StoreUnreachable),
        (exc.ResourceClosedError(GERMAN), errors.StoreUnreachable),
        (exc.TimeoutError(GERMAN), errors.StoreBusy),
        (UnicodeEncodeError("latin-1", "⋆", 0, 1, "no"), errors.StoreError),
        (exc.OperationalError("", {}, sqlite3.OperationalError("no such table: x")), None),
        (exc.ArgumentError(GERMAN), None),
    ],
)
def test_the_class_of_an_error_without_a_sqlstate_has_a_meaning(
    error: exc.SQLAlchemyError, kind: type[Exception] | None
) -> None:
    """A failed connection has only a localized message, or no message."""
    ours = driver_errors.translate(SHOWN, error)
    assert (None if ours is None else type(ours)) is kind


@pytest.mark.parametrize(
    "error",
    [pg.AdminShutdown(GERMAN), psycopg.OperationalError(GERMAN), exc.PendingRollbackError(GERMAN)],
)
def test_a_driver_s_own_error_is_translated(error: Exception, postgres_url: str) -> None:
    """A psycopg error inside a transaction is an outage too, and its time is noted."""
    store = engine.make_engine(postgres_url)
    with pytest.raises(errors.StoreUnreachable), transactions.transaction(store):
        raise error
    assert outage.seconds_since_outage() < 60
    store.dispose()


@pytest.mark.parametrize("code", ["25006", "0A000", "55000"])
def test_a_standby_differs_from_a_role_that_can_only_read(
    code: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both refuse each command, but their remedies differ."""
    store = engine.make_engine(postgres_url)
    for role, recovers, reads in (("standby", True, "off"), ("role", False, "on")):
        monkeypatch.setattr(transactions, "_ROLE", f"SELECT {recovers}, '{reads}'")
        with (
            pytest.raises((errors.StoreError, exc.DBAPIError)) as caught,
            transactions.transaction(store),
        ):
            raise of_server(code)
        standby = isinstance(caught.value, errors.StoreStandby)
        assert standby == (role == "standby")
        assert isinstance(caught.value, errors.StoreHeld) == (not standby and code == "25006")
        assert ("name the primary" in str(caught.value)) == standby
    store.dispose()


def test_a_statement_s_fault_stays_an_error(store: Engine) -> None:
    """A wrong statement is not an outage: no process waits five minutes because of it."""
    began = time.monotonic()
    with pytest.raises(exc.DBAPIError):
        transactions.patiently(store, lambda c: c.execute(sa.text("SELECT nothing FROM nowhere")))
    assert time.monotonic() - began < outage.OUTAGE_SECONDS / 2
