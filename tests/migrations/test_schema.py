"""The schema that migrations build, and how databases are opened."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from fedsweep.errors import SchemaNew, SchemaOld, StoreForeign, StoreMissing
from fedsweep.fields import CATALOG, added_by, config_columns
from fedsweep.store import schema, views
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import metadata
from fedsweep.store.transactions import reading, transaction
from tests.concurrency.processes import fork


def test_migrations_build_what_the_tables_declare(store: Engine) -> None:
    """Tables, columns, types, defaults, indexes and keys."""
    with store.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        checks = {
            (table.name, str(constraint.name))
            for table in metadata.tables.values()
            for constraint in table.constraints
            if isinstance(constraint, sa.CheckConstraint)
        }
        inspector = sa.inspect(connection)
        built = {
            (table, found["name"])
            for table in metadata.tables
            for found in inspector.get_check_constraints(table)
        }
        assert built == checks


def test_views_have_the_columns_of_the_contract(store: Engine) -> None:
    """In their order, on both databases."""
    with reading(store) as connection:
        columns = {
            name: list(connection.execute(sa.text(f"SELECT * FROM {name}")).keys())
            for name in views.NAMES
        }
    measured = ["test_miou", "mean_client_accuracy", "worst_client_accuracy"]
    own = [f"{kind}_own_accuracy" for kind in ("mean", "weighted", "decile", "worst")]
    first = [*added_by(1)]
    assert columns["results"] == [
        *("trial_id", "cell_id", "sweep", "state", "failure"),
        *first,
        *("config", "final_round", "test_accuracy", "test_loss", "validation_accuracy"),
        *("best_test_accuracy", "best_round", "bytes_up", "bytes_down", "seconds", "device"),
        *("numerics_id", "attempts", "error"),
        *added_by(2),
        *measured,
        *added_by(3),
        *("priority", "held", "rounds_shared"),
        *added_by(5),
        "frozen_at",
        *added_by(8),
        *own,
    ]
    assert columns["curves"] == [
        *("trial_id", "round", "phase", "train_loss", "test_loss", "test_accuracy"),
        *("validation_loss", "validation_accuracy", "seconds", "inherited"),
        *measured,
        *("statistics_mismatch", "gradient_deviation", "client_drift"),
        "statistics_mismatch_layers",
        *own,
    ]
    assert columns["clients"] == [
        *("trial_id", "round", "client", "samples", "test_accuracy"),
        *("own_accuracy", "own_samples"),
    ]
    assert columns["members"] == ["sweep", "trial_id"]
    first.remove("seed")
    assert columns["cells"] == [
        *("sweep", "cell_id"),
        *first,
        *("n", "n_failed", "n_diverged", "mean_test_accuracy", "std_test_accuracy"),
        *added_by(2),
        *added_by(3),
        *added_by(5),
        *added_by(8),
    ]
    assert columns["ledger"] == [
        "sweep",
        "rounds_trained",
        "rounds_shared",
        "rounds_lost",
        "seconds_trained",
        "seconds_saved",
        "seconds_lost",
    ]


def test_every_field_of_a_configuration_has_a_column_in_the_views() -> None:
    """A new field names the schema that adds its columns."""
    assert sorted(field.name for field in CATALOG) == sorted(config_columns())


def test_only_what_may_create_makes_a_missing_file(tmp_path: Path) -> None:
    """And nothing is left behind by a refusal."""
    with pytest.raises(StoreMissing, match="fedsweep plan"):
        schema.open_store(f"sqlite:///{tmp_path}/new.db")
    assert list(tmp_path.iterdir()) == []
    schema.open_store(f"sqlite:///{tmp_path}/new.db", create=True).dispose()
    assert (tmp_path / "new.db").exists()


def test_an_empty_database_gets_its_schema(empty_postgres: str) -> None:
    """On Postgres the first process creates it."""
    store = schema.open_store(empty_postgres)
    with reading(store) as connection:
        assert schema.current(connection) == schema.head()
    store.dispose()


def _open(url: str) -> None:
    schema.open_store(url, create=True).dispose()


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_many_processes_on_an_empty_database_make_one_schema(
    database: str, count: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All succeed at the same time, none finds half a schema."""
    url = f"sqlite:///{tmp_path}/many.db"
    if database == "postgres":
        url = request.getfixturevalue("empty_postgres")
    processes = [fork(_open, url) for _ in range(count)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    store = make_engine(url)
    with reading(store) as connection:
        schema.check(connection)
    store.dispose()


def test_an_older_or_newer_schema_is_refused_by_name(store: Engine, store_url: str) -> None:
    """The older one with the command that mends it."""
    with transaction(store) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaNew, match="newer fedsweep"):
        schema.open_store(store_url)
    with transaction(store) as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    with pytest.raises(StoreForeign):
        schema.open_store(store_url)


def test_an_old_schema_names_its_upgrade(first_store: str) -> None:
    """And is as it was until then."""
    with pytest.raises(SchemaOld, match="fedsweep db upgrade"):
        schema.open_store(first_store)
    store = make_engine(first_store)
    with reading(store) as connection:
        assert schema.current(connection) == "0001"
    store.dispose()


def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    """Tables, but none of ours: refused, unchanged."""
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(StoreForeign):
        schema.open_store(f"sqlite:///{file}", create=True)
    store = make_engine(f"sqlite:///{file}")
    with pytest.raises(StoreForeign):
        schema.migrate(store)
    store.dispose()
    assert before[100:] == file.read_bytes()[100:]


def test_upgrading_a_current_database_changes_nothing(store: Engine) -> None:
    """And says from where to where."""
    assert schema.migrate(store) == (schema.head(), schema.head())


def test_the_revisions_are_those_of_the_scripts() -> None:
    """Written down, so that a command need not read them."""
    scripts = ScriptDirectory.from_config(schema._config()).walk_revisions()
    assert [script.revision for script in scripts] == list(schema.REVISIONS)


def test_a_command_on_a_store_needs_no_alembic(sqlite_url: str) -> None:
    """Only a migration does."""
    program = (
        "import sys; from fedsweep.store.schema import open_store\n"
        f"open_store({sqlite_url!r}).dispose(); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
