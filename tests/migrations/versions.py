"""Rows as earlier versions of the schema stored them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import reading

ROWS = json.loads(Path(__file__).with_name("rows_of_0001.json").read_text())
"""Rows of five small trials as fedsweep 0.1 stored them: two finished, one given back after a
round, one not begun, one diverged. No machine has their `numerics_id`.
"""


ROWS_OF_0002 = json.loads(Path(__file__).with_name("rows_of_0002.json").read_text())
"""Rows of two sweeps that share a trial, as the second version stored them. Two trials finished,
with weights and clients' accuracies, and one diverged. One was given back after two rounds and
claimed again, and its lease is long over. One was cancelled, and one not begun.
"""


ROWS_OF_0003 = json.loads(Path(__file__).with_name("rows_of_0003.json").read_text())
"""Rows of two sweeps that share a trial, as the third version stored them, with files, logs and a
budget. Two trials finished, one diverged, and one was given back after two rounds. One is claimed,
and its lease is long over. One is paused, and one cancelled.
"""


ROWS_OF_0004 = json.loads(Path(__file__).with_name("rows_of_0004.json").read_text())
"""Rows of two sweeps that share trunks, as the fourth version stored them. A BN trial, which others
fork from, is paused after three of its five rounds, and another finished. FIXBN trials fork after
round 1, 2, 3 and 4: one was given back, one is claimed with a lease long over, and two are not
begun. GN's trials share nothing.
"""


ROWS_OF_0005 = json.loads(Path(__file__).with_name("rows_of_0005.json").read_text())
"""Rows of a sweep that searches, as the fifth version stored them. BN, GN and T* = 5 finished with
two seeds each. Of the second proposal, T* = 3, one seed was given back and is claimed again, with a
lease long over. The other is not begun.
"""


ROWS_OF_0006 = json.loads(Path(__file__).with_name("rows_of_0006.json").read_text())
"""The rows that the sixth version's code stored of a sweep with kept weights, diagnostics and the
accuracies of clients: BN and GN finished with two seeds each; of FIXBN, one trial failed, one lost
its worker and is claimed again (its lease is long over), one is queued, and one is canceled."""


ROWS_OF_0007 = json.loads(Path(__file__).with_name("rows_of_0007.json").read_text())
"""The rows that the seventh version's code stored of a sweep like the sixth's: BN and GN finished
with two seeds each; of FIXBN, one trial failed, one lost its worker (its lease is long over), one
finds its T* itself and is queued, and one is canceled. Of two workers, one stopped, and one passed
over trials."""


ROWS_OF_0008 = json.loads(Path(__file__).with_name("rows_of_0008.json").read_text())
"""The rows that the eighth version's code stored of a sweep with other algorithms and Adam at the
client: three trials finished. One was given back after two rounds and is claimed again, and its
lease is long over. Two FIXBN trials are queued.
"""


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
