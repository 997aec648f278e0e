"""The page on the views and tables of the database."""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlalchemy as sa

from fedsweep import measures
from fedsweep.fields import CATALOG, config_columns
from fedsweep.store import tables, views
from reference import docstrings
from reference.markdown import code, document, prose, sentence, table

UNITS = {"fraction": "fraction, 0 to 1", "number": "", "numbers by layer": "JSON"}
"""The unit of a measure in words, if the catalog's word needs more."""

SECONDS = frozenset({"seconds_trained", "seconds_saved", "seconds_lost"})
ROUNDS = frozenset({"rounds_trained", "rounds_shared", "rounds_lost"})
FRACTIONS = frozenset({"own_accuracy", "mean_test_accuracy", "std_test_accuracy"})


def page() -> str:
    """Return the page."""
    return document(
        "Views and tables",
        "The views are the same on SQLite and Postgres. Columns are only ever added, at the end of "
        "a view. A column is NULL if it has no meaning for a trial, or if it was not measured. "
        "Losses are mean cross-entropies in nats. Switches are 0 or 1. "
        "[Recipes](recipes.md) are statements over the views.",
        table(
            ["view", "one row per"],
            ([f"[{code(name)}](#{name})", prose(views.ROWS[name])] for name in views.NAMES),
        ),
        *(block for name in views.NAMES for block in _section(name)),
        "## Tables",
        "A read-only role can also read the tables. They may change with a new schema, which the "
        "views hide.",
        table(["table", "contents", "columns"], _tables()),
        sources=(
            "fedsweep/store/views.py",
            "fedsweep/store/tables.py",
            "fedsweep/fields.py",
            "fedsweep/measures.py",
        ),
    )


def columns() -> dict[str, list[str]]:
    """Return the columns of each view, in their order, as SQLite has them."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        tables.metadata.create_all(connection)
        views.create_views(connection)
        inspector = sa.inspect(connection)
        return {name: [c["name"] for c in inspector.get_columns(name)] for name in views.NAMES}


def _section(view: str) -> Iterator[str]:
    yield f"## {code(view)}"
    yield f"One row per {prose(views.ROWS[view])}."
    yield table(["column", "unit", "meaning"], (_row(view, name) for name in columns()[view]))


def _row(view: str, name: str) -> list[str]:
    fields = {field.name: field for field in CATALOG}
    if name in views.MEANINGS:
        told = views.IN_VIEW.get((view, name), views.MEANINGS[name])
        return [code(name), _unit(name), prose(told)]
    if name in fields:
        meaning = docstrings.of_attributes("trainers/config.py", "TrainConfig")[name]
        link = f"[{prose(sentence(meaning))}](plan-file.md#{name})"
        return [code(name), fields[name].unit, link]
    measure = measures.MEASURES[name]
    label = measure.label[0].upper() + measure.label[1:]
    return [code(name), UNITS.get(measure.unit, measure.unit), f"[{prose(label)}](measures.md)."]


def _unit(name: str) -> str:
    if name in SECONDS:
        return "seconds"
    if name in ROUNDS:
        return "rounds"
    return "fraction, 0 to 1" if name in FRACTIONS else ""


def _tables() -> Iterator[list[str]]:
    documented = docstrings.of_names("fedsweep/store/tables.py")
    by_table = {
        getattr(tables, name).name: text
        for name, text in documented.items()
        if isinstance(getattr(tables, name), sa.Table)
    }
    for one in tables.metadata.sorted_tables:
        names = [column.name for column in one.columns]
        own = [code(name) for name in names if one.name != "trials" or name not in config_columns()]
        more = ["each key of a plan"] if len(own) < len(names) else []
        told = re.sub(r" See `[\w.]+`\.", "", by_table[one.name])
        yield [code(one.name), prose(told), ", ".join(own + more)]
