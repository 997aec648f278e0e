"""The first schema: sweeps, plans, trials, members, attempts, rounds, snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", Key, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("name", name=op.f("uq_sweeps_name")),
    )
    op.create_table(
        "plans",
        sa.Column("id", Key, nullable=False),
        sa.Column("sweep", Key, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], name=op.f("fk_plans_sweep")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index(op.f("ix_plans_sweep"), "plans", ["sweep"], unique=False)
    op.create_table(
        "trials",
        sa.Column("id", Key, nullable=False),
        sa.Column("trial_id", sa.Text(), nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("sweep", Key, nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("image_size", sa.BigInteger(), nullable=True),
        sa.Column("augment", sa.Boolean(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("normalizer", sa.Text(), nullable=True),
        sa.Column("gn_groups", sa.BigInteger(), nullable=True),
        sa.Column("freeze_round", sa.BigInteger(), nullable=True),
        sa.Column("freeze", sa.Text(), nullable=True),
        sa.Column("partition", sa.Text(), nullable=True),
        sa.Column("alpha", sa.Double(), nullable=True),
        sa.Column("shards_per_client", sa.BigInteger(), nullable=True),
        sa.Column("clients", sa.BigInteger(), nullable=True),
        sa.Column("participation", sa.Double(), nullable=True),
        sa.Column("validation", sa.Double(), nullable=True),
        sa.Column("rounds", sa.BigInteger(), nullable=True),
        sa.Column("local_steps", sa.BigInteger(), nullable=True),
        sa.Column("batch_size", sa.BigInteger(), nullable=True),
        sa.Column("lr", sa.Double(), nullable=True),
        sa.Column("clip_norm", sa.Double(), nullable=True),
        sa.Column("momentum", sa.Text(), nullable=True),
        sa.Column("momentum_factor", sa.Double(), nullable=True),
        sa.Column("weight_decay", sa.Double(), nullable=True),
        sa.Column("decay_norm", sa.Boolean(), nullable=True),
        sa.Column("dtype", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("evaluate_every", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("clock", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("numerics_id", sa.Text(), nullable=True),
        sa.Column("data_fingerprint", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("final_round", sa.BigInteger(), nullable=True),
        sa.Column("test_accuracy", sa.Double(), nullable=True),
        sa.Column("test_loss", sa.Double(), nullable=True),
        sa.Column("validation_accuracy", sa.Double(), nullable=True),
        sa.Column("best_test_accuracy", sa.Double(), nullable=True),
        sa.Column("best_round", sa.BigInteger(), nullable=True),
        sa.Column("bytes_up", sa.BigInteger(), nullable=True),
        sa.Column("bytes_down", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "failure IN ('diverged', 'out_of_memory', 'bad_data', 'stalled', 'lost', 'error')",
            name=op.f("ck_trials_failure"),
        ),
        sa.CheckConstraint(
            "state <> 'running' OR lease_until IS NOT NULL",
            name=op.f("ck_trials_running_has_lease"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'finished', 'failed', 'cancelled')",
            name=op.f("ck_trials_state"),
        ),
        sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], name=op.f("fk_trials_sweep")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("trial_id", name=op.f("uq_trials_trial_id")),
    )
    op.create_index(op.f("ix_trials_cell_id"), "trials", ["cell_id"], unique=False)
    op.create_index(
        "ix_trials_queued",
        "trials",
        [sa.literal_column("priority DESC"), "id"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_trials_running",
        "trials",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", Key, nullable=False),
        sa.Column("trial", Key, nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("numerics_id", sa.Text(), nullable=True),
        sa.Column("numerics", sa.Text(), nullable=True),
        sa.Column("data_fingerprint", sa.Text(), nullable=True),
        sa.Column("rounds_trained", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rounds_new", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rounds_lost", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seconds_trained", sa.Double(), server_default="0", nullable=False),
        sa.Column("seconds_lost", sa.Double(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "failure IN ('diverged', 'out_of_memory', 'bad_data', 'stalled', 'lost', 'error')",
            name=op.f("ck_attempts_failure"),
        ),
        sa.CheckConstraint(
            "outcome IN ('finished', 'failed', 'released', 'cancelled', 'expired')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_attempts_trial")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("trial", "fence", name=op.f("uq_attempts_trial")),
    )
    op.create_table(
        "rounds",
        sa.Column("trial", Key, nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("train_loss", sa.Double(), nullable=False),
        sa.Column("test_loss", sa.Double(), nullable=True),
        sa.Column("test_accuracy", sa.Double(), nullable=True),
        sa.Column("validation_loss", sa.Double(), nullable=True),
        sa.Column("validation_accuracy", sa.Double(), nullable=True),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("inherited", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("phase IN ('explore', 'calibrate')", name=op.f("ck_rounds_phase")),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_rounds_trial")),
        sa.PrimaryKeyConstraint("trial", "round", name=op.f("pk_rounds")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "snapshots",
        sa.Column("trial", Key, nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("numerics_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_snapshots_trial")),
        sa.PrimaryKeyConstraint("trial", "round", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "sweep_members",
        sa.Column("sweep", Key, nullable=False),
        sa.Column("trial", Key, nullable=False),
        sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], name=op.f("fk_sweep_members_sweep")),
        sa.ForeignKeyConstraint(["trial"], ["trials.id"], name=op.f("fk_sweep_members_trial")),
        sa.PrimaryKeyConstraint("sweep", "trial", name=op.f("pk_sweep_members")),
    )
    op.create_index(op.f("ix_sweep_members_trial"), "sweep_members", ["trial"], unique=False)
