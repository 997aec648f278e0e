"""The BN rounds that bn and fixbn trials share if they differ only in their freeze round.

Existing trials stay as they are and share nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FREE = "state = 'queued' AND held IS NULL AND not_before IS NULL"
CLAIMABLE = f"{FREE} AND waits = 0"
WAITING = f"waits = 1 AND {FREE}"
SHARING = "trunk IS NOT NULL AND state IN ('queued', 'running')"
TRAINING = "trunk IS NOT NULL AND state = 'running'"
WHOLE = "trunk IS NOT NULL AND state = 'finished' AND fork_round = rounds"
BY_AGE = [sa.text("priority DESC"), "id"]


def upgrade() -> None:
    op.add_column("trials", sa.Column("trunk", sa.Text(), nullable=True))
    op.add_column("trials", sa.Column("fork_round", sa.BigInteger(), nullable=True))
    for name, kind in (("waits", sa.Integer()), ("rounds_shared", sa.BigInteger())):
        op.add_column("trials", sa.Column(name, kind, nullable=False, server_default="0"))
    op.add_column("snapshots", sa.Column("trunk", sa.Text(), nullable=True))
    for name in ("ix_trials_claimable", "ix_trials_claimable_of"):
        op.drop_index(name, table_name="trials")
    for name, table, columns, where in (
        ("ix_trials_claimable", "trials", BY_AGE, CLAIMABLE),
        ("ix_trials_claimable_of", "trials", ["sweep", *BY_AGE], CLAIMABLE),
        ("ix_trials_sharing", "trials", ["trunk", "waits", "fork_round"], SHARING),
        (
            "ix_trials_next",
            "trials",
            ["trunk", sa.text("priority DESC"), sa.text("fork_round DESC")],
            WAITING,
        ),
        ("ix_trials_training", "trials", ["trunk"], TRAINING),
        ("ix_trials_whole", "trials", ["trunk"], WHOLE),
        ("ix_snapshots_trunk", "snapshots", ["trunk", "round"], "trunk IS NOT NULL"),
    ):
        op.create_index(
            name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
