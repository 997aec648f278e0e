"""Rows as earlier versions of the schema stored them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import reading

ROWS = json.loads(Path(__file__).with_name("rows_of_0001.json").read_text())
"""Rows of fedsweep 0.1: five small trials: two finished, one given back after a round, one
not begun, one diverged. (Their `numerics_id` is nobody's.)"""


ROWS_OF_0002 = json.loads(Path(__file__).with_name("rows_of_0002.json").read_text())
"""Rows of the second version's code: two sweeps that share a trial: two trials finished, with
weights and clients' accuracies, one diverged, one given back after two rounds and claimed again
(its lease is long over), one cancelled, one not begun."""


ROWS_OF_0003 = json.loads(Path(__file__).with_name("rows_of_0003.json").read_text())
"""Rows of the third version's code: two sweeps that share a trial: two trials finished, one
diverged, one given back after two rounds, one claimed (its lease is long over), one paused, one
cancelled; with files, logs and a budget."""


ROWS_OF_0004 = json.loads(Path(__file__).with_name("rows_of_0004.json").read_text())
"""Rows of the fourth version's code: two sweeps that share trunks: a BN trial paused after
three of its five rounds, which others fork from; one finished; FIXBN trials that fork after round
1, 2, 3 and 4, of which one was given back, one is claimed (its lease is long over), and two are not
begun; and GN's."""


ROWS_OF_0005 = json.loads(Path(__file__).with_name("rows_of_0005.json").read_text())
"""Rows of the fifth version's code: a sweep that searches: BN, GN and T* = 5 finished with
two seeds each; of the second proposal, T* = 3, one seed was given back and is claimed again (its
lease is long over), one is not begun."""


ROWS_OF_0006 = json.loads(Path(__file__).with_name("rows_of_0006.json").read_text())
"""The rows that the sixth version's code stored of a sweep with kept weights, diagnostics and the
accuracies of clients: BN and GN finished with two seeds each; of FIXBN, one trial failed, one lost
its worker and is claimed again (its lease is long over), one is queued, and one is canceled."""


Tables = dict[str, list[dict[str, Any]]]


def everything(url: str) -> Tables:
    """Every row of every table, by the columns that the table has; in the order of their keys,
    where there is one.
    """
    engine = make_engine(url)
    with reading(engine) as connection:
        there = sa.MetaData()
        there.reflect(connection)
        found = {
            name: [
                dict(row)
                for row in connection.execute(
                    sa.select(table).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for name, table in there.tables.items()
        }
    engine.dispose()
    return found
