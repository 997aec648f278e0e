"""The fields of algorithms and optimizers.

Rows that are there get what their trials were: a new field's default where the field has a
meaning, NULL elsewhere. Their configurations and ids stay as they are.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("algorithm", sa.Text(), nullable=True))
    op.add_column("trials", sa.Column("prox_mu", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("server_lr", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("server_beta1", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("server_beta2", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("server_tau", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("dyn_alpha", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("optimizer", sa.Text(), nullable=True))
    op.add_column("trials", sa.Column("adam_beta1", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("adam_beta2", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("adam_eps", sa.Double(), nullable=True))
    op.execute("UPDATE trials SET algorithm = 'fedavg' WHERE NOT centralized")
    op.execute("UPDATE trials SET optimizer = 'sgd'")
