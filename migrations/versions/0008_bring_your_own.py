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
    "pretrained": sa.Text(),
    "pretrained_hash": sa.Text(),
    "code": sa.Text(),
}


def upgrade() -> None:
    for name, kind in FIELDS.items():
        op.add_column("trials", sa.Column(name, kind, nullable=True))
