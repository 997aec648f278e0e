"""Arms whose best freeze round is searched for, what the search proposed, and trials that find
theirs by themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("trials", sa.Column("freeze_rule", sa.Text(), nullable=True))
    op.add_column("trials", sa.Column("frozen_at", sa.BigInteger(), nullable=True))
    op.execute("UPDATE trials SET freeze_rule = 'given' WHERE normalizer = 'fixbn'")
    op.create_table(
        "arms",
        sa.Column("id", Key, nullable=False),
        sa.Column("sweep", Key, nullable=False),
        sa.Column("arm_id", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("rivals", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("seeds", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("asked", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("said", sa.Text(), nullable=True),
        sa.Column("freeze_round", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arms")),
        sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], name=op.f("fk_arms_sweep")),
        sa.UniqueConstraint("sweep", "arm_id", name=op.f("uq_arms_sweep")),
        sa.CheckConstraint("ended IN ('budget', 'settled', 'tried')", name=op.f("ck_arms_ended")),
    )
    op.create_index(
        "ix_arms_open",
        "arms",
        [sa.text("priority DESC"), "id"],
        sqlite_where=sa.text("ended IS NULL"),
        postgresql_where=sa.text("ended IS NULL"),
    )
    op.create_table(
        "proposals",
        sa.Column("arm", Key, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("freeze_round", sa.BigInteger(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("pruned_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("arm", "number", name=op.f("pk_proposals")),
        sa.ForeignKeyConstraint(["arm"], ["arms.id"], name=op.f("fk_proposals_arm")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "proposed",
        sa.Column("arm", Key, nullable=False),
        sa.Column("trial", Key, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("fresh", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("arm", "trial", name=op.f("pk_proposed")),
        sa.ForeignKeyConstraint(["arm"], ["arms.id"], name=op.f("fk_proposed_arm")),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_proposed_trial")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_proposed_trial", "proposed", ["trial"])
    op.create_table(
        "lattices",
        sa.Column("trunk", sa.Text(), nullable=False),
        sa.Column("arm", Key, nullable=False),
        sa.Column("low", sa.BigInteger(), nullable=False),
        sa.Column("high", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trunk", "arm", name=op.f("pk_lattices")),
        sa.ForeignKeyConstraint(["arm"], ["arms.id"], name=op.f("fk_lattices_arm")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_lattices_arm", "lattices", ["arm"])
