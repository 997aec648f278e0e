"""Alembic's door: fedsweep passes the open connection; the transaction is its own."""

from __future__ import annotations

from alembic import context

from fedsweep.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
