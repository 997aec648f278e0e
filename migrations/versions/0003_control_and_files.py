"""Sweeps and trials that can be held, budgets; files with an index; logs and provenance.

The queue's index holds what may be claimed at once: neither held, nor backing off.
"""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
QUEUED = "state = 'queued'"
CLAIMABLE = f"{QUEUED} AND held IS NULL AND not_before IS NULL"
BACKING_OFF = f"{QUEUED} AND not_before IS NOT NULL"


def upgrade() -> None:
    for name, kind in (
        ("held", sa.Text()),
        ("artifacts", sa.Text()),
        ("budget_rounds", sa.BigInteger()),
        ("budget_hours", sa.Double()),
    ):
        op.add_column("sweeps", sa.Column(name, kind, nullable=True))
    for name, kind in (
        ("wish", sa.Text()),
        ("held", sa.Text()),
        ("snapshot_every", sa.BigInteger()),
    ):
        op.add_column("trials", sa.Column(name, kind, nullable=True))
    op.add_column("attempts", sa.Column("provenance", sa.Text(), nullable=True))
    op.add_column(
        "sweep_members", sa.Column("shared", sa.Integer(), nullable=False, server_default="0")
    )
    op.execute(
        "UPDATE sweep_members SET shared = 1 WHERE sweep <> "
        "(SELECT t.sweep FROM trials t WHERE t.id = sweep_members.trial)"
    )
    identity = op.create_table(
        "store",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_store")),
    )
    op.execute(sa.insert(identity).values(id=uuid.uuid4().hex[:16], made_at=time.time()))
    op.create_table(
        "logs",
        sa.Column("trial", Key, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_logs_trial")),
        sa.PrimaryKeyConstraint("trial", "fence", "n", name=op.f("pk_logs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "files",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("trial", Key, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("free_since", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_files_trial")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_trial"), "files", ["trial"])
    for table in ("snapshots", "weights"):
        op.execute(
            f"INSERT INTO files (name, trial, fence) SELECT f.name, f.trial, "
            f"coalesce({_FENCE[op.get_bind().dialect.name]}, t.fence) "
            f"FROM {table} f JOIN trials t ON t.id = f.trial"
        )
    op.drop_index("ix_trials_queued", table_name="trials")
    for name, columns, where in (
        ("ix_trials_claimable", [sa.text("priority DESC"), "id"], CLAIMABLE),
        ("ix_trials_claimable_of", ["sweep", sa.text("priority DESC"), "id"], CLAIMABLE),
        ("ix_trials_backing_off", ["clock", "not_before"], BACKING_OFF),
        ("ix_trials_outstanding", ["held", "sweep"], "state IN ('queued', 'running')"),
    ):
        op.create_index(
            name,
            "trials",
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index(
        "ix_sweep_members_shared",
        "sweep_members",
        ["sweep", "trial"],
        sqlite_where=sa.text("shared = 1"),
        postgresql_where=sa.text("shared = 1"),
    )


# The earlier version named its files TRIAL-FENCE-…: the attempt says on which machine they lie.
_FENCE = {
    "sqlite": "CAST(nullif(substr(f.name, instr(f.name, '-') + 1), f.name) AS INTEGER)",
    "postgresql": "CAST(substring(f.name FROM '-([0-9]+)-') AS BIGINT)",
}
