"""The configuration's new fields for models, data and algorithms of one's own.

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
}


def upgrade() -> None:
    for name, kind in FIELDS.items():
        op.add_column("trials", sa.Column(name, kind, nullable=True))
    op.execute("UPDATE trials SET algorithm = 'fedavg' WHERE NOT centralized")
    op.execute("UPDATE trials SET optimizer = 'sgd'")
