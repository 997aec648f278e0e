"""A database of the fifth version, upgraded: nothing is lost, and its search goes on."""

from __future__ import annotations

import pytest

from fedsweep.store import arms, schema
from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import reading
from fedsweep.store.trial_rows import trial_attempts
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0005, everything
from tests.unit.search.searches import work

pytestmark = pytest.mark.usefixtures("own_data_folder")


def test_an_upgrade_keeps_every_value_of_every_row(fifth_store: str) -> None:
    """A column is added, none is changed; the database is sound."""
    before = everything(fifth_store)
    assert {name: len(before[name]) for name in ROWS_OF_0005} == {
        name: len(rows) for name, rows in ROWS_OF_0005.items()
    }
    engine = make_engine(fifth_store)
    assert schema.migrate(engine) == ("0005", schema.head())
    after = everything(fifth_store)
    for name in ROWS_OF_0005:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    engine.dispose()


def test_a_search_goes_on_to_its_end(fifth_store: str) -> None:
    """The lost trial too, whose new attempt notes its memory."""
    engine = make_engine(fifth_store)
    schema.migrate(engine)
    assert work(engine) >= 2
    with reading(engine) as c:
        (arm,) = arms.of_sweep(c, "fifth")
        noted = [attempt["memory"] is not None for attempt in trial_attempts(c, 7)]
    assert arm.ended is not None
    assert noted == [False, False, True]
    assert integrity.faults(engine) == []
    engine.dispose()
