"""The configuration's new fields for models, data and algorithms of one's own.

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
    "algorithm": sa.Text(),
    "prox_mu": sa.Double(),
    "server_lr": sa.Double(),
    "server_beta1": sa.Double(),
    "server_beta2": sa.Double(),
    "server_tau": sa.Double(),
    "dyn_alpha": sa.Double(),
    "optimizer": sa.Text(),
    "adam_beta1": sa.Double(),
    "adam_beta2": sa.Double(),
    "adam_eps": sa.Double(),
    "pretrained": sa.Text(),
    "pretrained_hash": sa.Text(),
    "code": sa.Text(),
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
    op.execute("UPDATE trials SET algorithm = 'fedavg' WHERE NOT centralized")
    op.execute("UPDATE trials SET optimizer = 'sgd'")
    for name in OWN_ACCURACIES:
        op.add_column("trials", sa.Column(name, sa.Double(), nullable=True))
        op.add_column("rounds", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("client_rounds", sa.Column("own_accuracy", sa.Double(), nullable=True))
    op.add_column("client_rounds", sa.Column("own_samples", sa.BigInteger(), nullable=True))
    filled = sa.table("trials", sa.column("dataset", sa.Text()), sa.column("clients_by", sa.Text()))
    op.execute(
        sa.update(filled).where(filled.c.dataset == "imagefolder").values(clients_by="nothing")
    )
