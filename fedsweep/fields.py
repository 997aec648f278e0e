"""The catalog of configuration fields, for tables, views, identities and figures.

A new field needs a declaration in `trainers.config.TrainConfig`, the code that uses it, an entry in
this catalog, and a migration that adds its column.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from trainers.config import NORMALIZERS, TrainConfig


@dataclass(frozen=True)
class ConfigField:
    """A field of `TrainConfig`."""

    name: str
    since: int = 1
    """The schema (see `migrations`) that added its column to the tables and views."""
    symbol: str = ""
    """Short text that stands for its name in tables and figures. It is "" if the name itself is
    used.
    """
    normalizer: str = ""
    """The only normalizer that has this setting. The settings of a normalizer tell arms apart:
    they head the columns of a table."""
    column: str = ""
    """Short text before its value in such a heading. It is "" if only the value is used."""
    row: bool = False
    """True if it always heads the rows of a table. Other fields head them only if they vary."""
    unset: bool = False
    """True if None is a choice of its own. Any other field is None if the rest of the configuration
    makes it meaningless.
    """
    federated: bool = False
    """True if it has no meaning, or another one, in centralized training."""
    timed: bool = False
    """True if the time of a round depends on it."""
    tunable: bool = False
    """True for a hyperparameter, whose value a study may choose on validation."""
    measured: bool = False
    """True if it is outside the identity of a trial and changes what its rounds measure."""
    unit: str = ""
    """The unit of its values. It is "" for a name, a switch, or a number without a unit."""


CATALOG = (
    ConfigField("dataset", timed=True),
    ConfigField("model", timed=True),
    ConfigField("normalizer", timed=True),
    ConfigField("partition", federated=True),
    ConfigField("alpha", symbol="α", row=True, federated=True),
    ConfigField(
        "local_steps",
        symbol="E",
        row=True,
        federated=True,
        timed=True,
        unit="steps per client and round",
    ),
    ConfigField(
        "freeze_round", symbol="T⋆", normalizer="fixbn", column="T⋆", unit="rounds", tunable=True
    ),
    ConfigField("momentum", row=True, federated=True),
    ConfigField("clients", federated=True, timed=True, unit="clients"),
    ConfigField("participation", federated=True, timed=True, unit="fraction of the clients"),
    ConfigField("rounds", unit="rounds"),
    ConfigField("seed"),
    ConfigField("fingerprint", unset=True),
    ConfigField("image_size", timed=True, unit="pixels"),
    ConfigField("augment"),
    ConfigField("gn_groups", normalizer="gn", column="groups", unit="groups", tunable=True),
    # In the heading of a column, the rule stands before the kind of freeze.
    ConfigField("freeze_rule", since=5, normalizer="fixbn"),
    ConfigField("freeze", normalizer="fixbn", tunable=True),
    ConfigField("shards_per_client", federated=True, unit="shards"),
    ConfigField("validation", unit="fraction of the samples"),
    ConfigField("batch_size", timed=True, unit="samples", tunable=True),
    ConfigField("lr", tunable=True),
    ConfigField("clip_norm", tunable=True),
    ConfigField("momentum_factor", tunable=True),
    ConfigField("weight_decay", tunable=True),
    ConfigField("decay_norm", tunable=True),
    ConfigField("dtype", timed=True),
    ConfigField("evaluate_every", measured=True, unit="rounds"),
    ConfigField("image_height", since=2, timed=True, unit="pixels"),
    ConfigField("agc_clip", since=2, normalizer="ws", column="clip", tunable=True),
    ConfigField("centralized", since=2, symbol="central", federated=True, timed=True),
    ConfigField("min_samples", since=2, federated=True, unit="samples"),
    ConfigField(
        "local_epochs",
        since=2,
        symbol="epochs",
        unset=True,
        federated=True,
        timed=True,
        unit="passes per client and round",
    ),
    ConfigField("lr_schedule", since=2, tunable=True),
    ConfigField("lr_step", since=2, unit="rounds", tunable=True),
    ConfigField("lr_gamma", since=2, tunable=True),
    ConfigField("server_momentum", since=2, federated=True, tunable=True),
    ConfigField("client_accuracy", since=2, timed=True, measured=True),
    ConfigField("keep_weights", since=2),
    ConfigField("diagnostics", since=2, timed=True, measured=True),
    ConfigField("snapshot_every", since=3, unit="rounds"),
    ConfigField("algorithm", since=8, federated=True, timed=True),
    ConfigField("prox_mu", since=8, symbol="μ", federated=True, tunable=True),
    ConfigField("server_lr", since=8, federated=True, tunable=True),
    ConfigField("server_beta1", since=8, federated=True, tunable=True),
    ConfigField("server_beta2", since=8, federated=True, tunable=True),
    ConfigField("server_tau", since=8, federated=True, tunable=True),
    ConfigField("dyn_alpha", since=8, federated=True, tunable=True),
    ConfigField("optimizer", since=8, timed=True),
    ConfigField("adam_beta1", since=8, tunable=True),
    ConfigField("adam_beta2", since=8, tunable=True),
    ConfigField("adam_eps", since=8, tunable=True),
    ConfigField("pretrained", since=8, unset=True),
    ConfigField("pretrained_hash", since=8, unset=True),
    ConfigField("code", since=8, unset=True),
    ConfigField("file", since=8, timed=True),
    ConfigField("clients_by", since=8),
    ConfigField("partition_file", since=8, federated=True),
    ConfigField("partition_fingerprint", since=8, unset=True, federated=True),
)
"""Every field. Those of a schema are in the order of their columns in the views."""

_BY_NAME = {field.name: field for field in CATALOG}


def _names(choose: Callable[[ConfigField], object]) -> tuple[str, ...]:
    return tuple(field.name for field in CATALOG if choose(field))


def added_by(schema: int) -> tuple[str, ...]:
    """Return the fields whose columns this schema added, in the order of the views."""
    return _names(lambda field: field.since == schema)


ROW_FIELDS = _names(lambda field: field.row)
"""Fields that always head the rows of a table, in this order."""

ARM_FIELDS = tuple(
    field.name
    for field in sorted(
        (field for field in CATALOG if field.normalizer),
        key=lambda field: NORMALIZERS.index(field.normalizer),
    )
)
"""Settings of normalizers, which tell the columns of a table apart, in this order."""

UNSET = frozenset(_names(lambda field: field.unset))
"""Fields for which None is a choice of its own."""

FEDERATED = frozenset(_names(lambda field: field.federated))
"""Fields that have no meaning, or another one, in centralized training."""

TIMED = _names(lambda field: field.timed)
"""Fields on which the time of a round depends, in addition to the machine."""

TUNABLE = _names(lambda field: field.tunable)
"""Hyperparameters, whose values a study may choose on validation."""

MEASURED = _names(lambda field: field.measured)
"""Fields outside the identity of a trial that show in its rounds."""

DESCRIBED = (
    *("algorithm", "optimizer"),
    *("alpha", "local_steps", "freeze_round", "momentum", "local_epochs", "centralized"),
)
"""The fields that describe a trial in a few words, in this order."""

USUAL = {"algorithm": "fedavg", "optimizer": "sgd"}
"""The values of such fields that go without saying."""

UNSAID = frozenset({
    *("normalizer", "seed", "snapshot_every", "keep_weights"),
    *("fingerprint", "partition_fingerprint", "pretrained_hash", "code"),
    *MEASURED,
})  # fmt: skip
"""Fields that never describe a trial further, because they stand elsewhere, are hashes, or change
no weights.
"""

TELLING = _names(lambda field: field.name not in UNSAID and field.name not in DESCRIBED)
"""Fields that describe a trial, too, where they vary within its sweep."""


def label(name: str) -> str:
    """Return the symbol of a field, or its name if it has none."""
    return _BY_NAME[name].symbol or name if name in _BY_NAME else name


def column_label(name: str) -> str:
    """Return the text before a setting's value in the heading of a column, "" for none."""
    return _BY_NAME[name].column


@functools.cache
def config_columns() -> dict[str, type]:
    """Return every field of TrainConfig with the type of its values: bool, int, float or str."""
    python = {"boolean": bool, "integer": int, "number": float, "string": str}
    columns = {}
    for name, schema in TrainConfig.model_json_schema()["properties"].items():
        variants = [schema, *schema.get("anyOf", [])]
        columns[name] = next(python[v["type"]] for v in variants if v.get("type") in python)
    return columns
