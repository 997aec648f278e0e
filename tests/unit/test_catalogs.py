"""The catalogs of measures, fields and normalizers: the orders that stored data depend on."""

from __future__ import annotations

import json
from dataclasses import fields

from fedsweep import appearance, measures
from fedsweep.fields import (
    ARM_FIELDS,
    CATALOG,
    DESCRIBED,
    MEASURED,
    added_by,
    config_columns,
    label,
)
from fedsweep.plans import OUTSIDE_IDENTITY
from fedsweep.serve.screen import measures_json
from trainers.config import NORMALIZERS
from trainers.measurements import Round


def test_columns_of_measures_keep_their_order() -> None:
    """The order is that of the tables and views of every database."""
    assert [measure.name for measure in measures.OF_TRIALS] == [
        *("test_accuracy", "test_loss", "validation_accuracy", "best_test_accuracy", "best_round"),
        *("bytes_up", "bytes_down", "seconds"),
        *("test_miou", "mean_client_accuracy", "worst_client_accuracy"),
        *("mean_own_accuracy", "weighted_own_accuracy", "decile_own_accuracy"),
        "worst_own_accuracy",
    ]
    assert [measure.name for measure in measures.OF_ROUNDS] == [
        *("train_loss", "test_loss", "test_accuracy", "validation_loss", "validation_accuracy"),
        *("bytes_up", "bytes_down", "seconds"),
        *("test_miou", "mean_client_accuracy", "worst_client_accuracy"),
        *("statistics_mismatch", "gradient_deviation", "client_drift"),
        "statistics_mismatch_layers",
        *("mean_own_accuracy", "weighted_own_accuracy", "decile_own_accuracy"),
        "worst_own_accuracy",
    ]


def test_every_number_of_a_round_is_in_the_catalog() -> None:
    """The fields of a round that are no measures are its key, its phase and its clients."""
    others = {"round", "phase", "clients"}
    assert {field.name for field in fields(Round)} - others == {
        measure.name for measure in measures.OF_ROUNDS
    }


def test_a_measure_of_a_trial_that_no_round_has_is_not_taken_from_its_last_round() -> None:
    assert set(measures.FROM_LAST_ROUND) <= {measure.name for measure in measures.OF_ROUNDS}


def test_the_list_of_rounds_has_the_measures_that_every_trial_may_take() -> None:
    """A browser gets what it draws in the same order."""
    shown = [measure.name for measure in measures.SHOWN_BY_ROUND]
    assert shown == [
        *("test_accuracy", "validation_accuracy"),
        *("train_loss", "test_loss", "validation_loss", "seconds"),
    ]
    described = json.loads(measures_json(measures.SHOWN_BY_ROUND))
    assert described[0] == {
        "group": "accuracy",
        "samples": "test",
        "label": "test accuracy",
        "scale": 100,
    }
    assert [each["label"] for each in described][-1] == "seconds"
    headings = [measure.short_heading for measure in measures.SHOWN_BY_ROUND]
    assert headings[:3] == ["test acc.", "validation acc.", "train loss"]


def test_columns_of_fields_keep_their_order() -> None:
    """Each schema adds its columns after those of the schemas before it."""
    assert added_by(1)[:12] == (
        *("dataset", "model", "normalizer", "partition", "alpha", "local_steps", "freeze_round"),
        *("momentum", "clients", "participation", "rounds", "seed"),
    )
    assert added_by(1)[12:] == (
        *("fingerprint", "image_size", "augment", "gn_groups", "freeze", "shards_per_client"),
        *("validation", "batch_size", "lr", "clip_norm", "momentum_factor", "weight_decay"),
        *("decay_norm", "dtype", "evaluate_every"),
    )
    assert added_by(2) == (
        *("image_height", "agc_clip", "centralized", "min_samples", "local_epochs"),
        *("lr_schedule", "lr_step", "lr_gamma", "server_momentum"),
        *("client_accuracy", "keep_weights", "diagnostics"),
    )
    data = ("file", "clients_by", "partition_file", "partition_fingerprint")
    assert set(data) <= set(added_by(8))
    assert (added_by(3), added_by(4), added_by(5)) == (("snapshot_every",), (), ("freeze_rule",))
    assert added_by(8) == (
        *("algorithm", "prox_mu", "server_lr", "server_beta1", "server_beta2", "server_tau"),
        *("dyn_alpha", "optimizer", "adam_beta1", "adam_beta2", "adam_eps"),
        *("pretrained", "pretrained_hash", "code"),
        *("file", "clients_by", "partition_file", "partition_fingerprint"),
    )


def test_settings_of_a_normalizer_head_columns_in_the_order_of_normalizers() -> None:
    assert ARM_FIELDS == ("freeze_round", "freeze_rule", "freeze", "gn_groups", "agc_clip")


def test_fields_that_only_change_what_is_measured_are_outside_the_identity() -> None:
    """A trunk's id depends on these fields, and a trial's id does not."""
    assert set(MEASURED) == {"evaluate_every", "client_accuracy", "diagnostics"}
    assert set(MEASURED) < OUTSIDE_IDENTITY


def test_a_field_without_a_symbol_is_called_by_its_name() -> None:
    assert [label(name) for name in ("alpha", "momentum", "nothing")] == [
        "α",
        "momentum",
        "nothing",
    ]
    assert set(DESCRIBED) < {field.name for field in CATALOG} == set(config_columns())


def test_every_normalizer_of_ours_has_its_place_and_its_colors() -> None:
    """Those of other packages come last, black in figures and gray on a page."""
    places = [appearance.normalizer_place(name) for name in (*NORMALIZERS, "frn")]
    assert places == list(range(len(NORMALIZERS) + 1))
    assert [name for name in NORMALIZERS if name not in appearance.FIGURE_COLORS] == ["fixbn"]
    gray, same = ((style.light, style.dark) for style in appearance.arm_styles(["none", "frn"]))
    assert gray == same == ("#6b6b6b", "#a8a8a8")
    assert [appearance.central_twin(name) for name in ("fedbn", "gn", "frn")] == ["bn", "gn", "frn"]


def test_the_color_of_fixbn_deepens_from_line_to_line() -> None:
    """A single line has the middle color."""
    styles = appearance.arm_styles(["bn", "fixbn", "fixbn", "fixbn"])
    assert [style.light for style in styles] == ["#D55E00", "#0AB0E1", "#1466D1", "#2E1872"]
    (alone,) = appearance.arm_styles(["fixbn"])
    assert (alone.light, alone.dark) == ("#1466D1", "#67B7FF")
