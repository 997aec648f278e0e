"""Own data: the file of arrays, the clients of image folders, partitions of a file.

Also the clients' accuracies on their own test images.

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

# Written out: what a field is to mean in a later version must not change what happened here.
FIELDS = {
    "file": sa.Text(),
    "clients_by": sa.Text(),
    "partition_file": sa.Text(),
    "partition_fingerprint": sa.Text(),
}
OWN_ACCURACIES = (
    "mean_own_accuracy",
    "weighted_own_accuracy",
    "decile_own_accuracy",
    "worst_own_accuracy",
)


def upgrade() -> None:
    for name, kind in FIELDS.items():
        op.add_column("trials", sa.Column(name, kind, nullable=True))
    for name in OWN_ACCURACIES:
        op.add_column("trials", sa.Column(name, sa.Double(), nullable=True))
        op.add_column("rounds", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("client_rounds", sa.Column("own_accuracy", sa.Double(), nullable=True))
    op.add_column("client_rounds", sa.Column("own_samples", sa.BigInteger(), nullable=True))
    filled = sa.table("trials", sa.column("dataset", sa.Text()), sa.column("clients_by", sa.Text()))
    op.execute(
        sa.update(filled).where(filled.c.dataset == "imagefolder").values(clients_by="nothing")
    )
