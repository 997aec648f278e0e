"""The identity of a trial."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsweep.plans import TrialSpec
from tests.unit.trainers.arms import BASE, ROAD, config
from trainers.config import ALGORITHMS, NORMALIZERS, USED_WHEN, TrainConfig
from trainers.feasible import check_feasible
from trainers.identity import OUTSIDE_IDENTITY, canonical
from trainers.own_models import OWN
from trainers.sizes import share


def test_released_ids_never_change() -> None:
    """These ids stand in people's databases: a change needs a raised recipe, and a new id."""
    assert TrialSpec.of(config()).trial_id == "f0d94cd2c12c8531228c"
    fixbn = config(normalizer="fixbn", freeze_round=12, seed=3)
    assert TrialSpec.of(fixbn).trial_id == "94b809ddcaaa3b450493"


def test_defaults_and_unused_keys_are_left_out_of_the_identity() -> None:
    """Only what was chosen, the seed and the recipe remain."""
    spelled_out = config(
        clip_norm=10.0,
        freeze="layer",
        freeze_round=3,
        gn_groups=4,
        participation=1,
        dtype="float32",
    )
    assert spelled_out == config()
    assert canonical(spelled_out) == {**BASE, "seed": 0, "recipe": 1}


@pytest.mark.parametrize(
    ("changes", "recipe"),
    [
        ({"alpha": 0.01}, 1),
        ({"alpha": 0.0099}, 2),
        ({"alpha": 1e-6}, 2),
        ({"alpha": 1e-6, "partition": "dirichlet-class"}, 1),
        ({"alpha": 1e-6, "partition": "iid"}, 1),
        ({"alpha": 1e-6, "centralized": True}, 1),
    ],
)
def test_only_partitions_that_were_wrong_have_a_new_recipe(
    changes: dict[str, Any], recipe: int
) -> None:
    """These are the Dirichlet partitions by client with alpha < 0.01."""
    assert canonical(config(**changes))["recipe"] == recipe


def test_an_integer_and_its_float_are_one_value() -> None:
    """1 and 1.0, 20 and 20.0."""
    assert config(alpha=1, batch_size=20.0) == config(alpha=1.0, batch_size=20)
    assert TrialSpec.of(config(alpha=1)) == TrialSpec.of(config(alpha=1.0))


def test_zero_has_no_sign() -> None:
    """-0.0 and 0.0 are one value, and one id."""
    assert TrialSpec.of(config(clip_norm=-0.0)) == TrialSpec.of(config(clip_norm=0.0))


def test_evaluating_less_often_is_the_same_trial() -> None:
    """Measurements are not part of a trial's identity."""
    assert TrialSpec.of(config(evaluate_every=5)).trial_id == TrialSpec.of(config()).trial_id


@pytest.mark.parametrize("field", ["diagnostics", "client_accuracy", "keep_weights"])
def test_measuring_or_keeping_more_is_the_same_trial(field: str) -> None:
    """Diagnostics, clients' accuracies, final weights."""
    assert TrialSpec.of(config(**{field: True})).trial_id == TrialSpec.of(config()).trial_id


def test_a_centralized_baseline_has_no_partition() -> None:
    """alpha, partition and participation drop out; M stays, for a round is M E steps."""
    baseline = config(centralized=True)
    for change in ({"alpha": 1.0}, {"partition": "shards"}, {"participation": 0.5}):
        assert TrialSpec.of(config(centralized=True, **change)) == TrialSpec.of(baseline)
    assert TrialSpec.of(config(centralized=True, clients=5)) != TrialSpec.of(baseline)
    epochs = {"centralized": True, "local_steps": None, "local_epochs": 2}
    assert config(**epochs, clients=5) == config(**epochs, clients=None)
    assert baseline.steps(1437) == 50
    assert config().steps(143) == 5


def test_local_epochs_count_whole_batches() -> None:
    """45 samples in batches of 20: two steps a pass, one where there are fewer than a batch."""
    two = config(local_steps=None, local_epochs=2)
    assert [two.steps(n) for n in (45, 40, 39, 7)] == [4, 4, 2, 2]


def test_a_natural_partition_takes_its_clients_from_the_data() -> None:
    """So that naming a number makes no other trial."""
    assert config(**ROAD, clients=3) == config(**ROAD, clients=None)


def test_fixbn_frozen_at_the_end_keeps_its_own_identity() -> None:
    """Equal numbers to BN, not an equal id."""
    assert TrialSpec.of(config(normalizer="fixbn", freeze_round=24)) != TrialSpec.of(config())


def test_a_cell_is_a_configuration_without_its_seed() -> None:
    """Seeds share a cell; a trial's id is never its cell's."""
    first, second = TrialSpec.of(config(seed=0)), TrialSpec.of(config(seed=1))
    assert first.cell_id == second.cell_id
    assert len({first.trial_id, second.trial_id, first.cell_id}) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": -1.0}, "greater than 0"),
        ({"alpha": None}, "needs an alpha"),
        ({"normalizer": "fixbn"}, "needs a freeze_round"),
        ({"normalizer": "fixbn", "freeze_round": 25}, "after the last round"),
        ({"normalizer": "gn", "gn_groups": 5}, "does not divide"),
        ({"clients": 1438}, "more than the 1437 training samples"),
        ({"partition": "shards", "shards_per_client": 144}, "more than the 1437"),
        ({"lr": float("inf")}, "finite"),
        ({"rounds": True}, "valid integer"),
        ({"rounds": "24"}, "valid integer"),
        ({"participation": 1.5}, "less than or equal to 1"),
        ({"color": "red"}, "Extra inputs"),
        ({"seed": 2**63}, "less than or equal to"),
        ({"dataset": "imagefolder", "image_size": 3}, "4 or more"),
        ({"clients": None}, "clients is missing"),
        ({"local_steps": None}, "local_steps needs a value"),
        ({"local_epochs": 2}, "exclude each other"),
        ({"lr_schedule": "step"}, "needs an lr_step"),
        ({"normalizer": "batchnorm"}, "batchnorm is no normalizer that is installed"),
        ({"dataset": "camvid"}, "model = cnn does not fit camvid: choose deeplabv3plus"),
        ({"model": "deeplabv3plus"}, "does not fit digits"),
        ({"dataset": "camvid", "model": "deeplabv3plus"}, 'choose partition = "natural"'),
        ({"partition": "natural"}, "no groups of its own"),
        ({**ROAD, "image_height": 100}, "no multiple of 16"),
        ({"model": "resnet18", "normalizer": "gn", "gn_groups": 3}, "does not divide"),
        ({"partition": "dirichlet-class", "min_samples": 200}, "lower clients or min_samples"),
        ({"server_momentum": 1.0}, "less than 1"),
        ({"algorithm": "fedadm"}, "fedadm is no algorithm that is installed"),
        ({"algorithm": "fedprox", "prox_mu": -1.0}, "greater than or equal to 0"),
        ({"algorithm": "scaffold", "server_lr": 0.0}, "greater than 0"),
        ({"algorithm": "fedadam", "server_beta2": 1.0}, "less than 1"),
        ({"algorithm": "fedyogi", "server_tau": 0.0}, "greater than 0"),
        ({"algorithm": "feddyn", "dyn_alpha": 0.0}, "greater than 0"),
        (
            {"algorithm": "fedadam", "server_momentum": 0.9},
            "server_momentum = 0.9 does not fit fedadam.*algorithm = fedavg or fedprox",
        ),
        ({"algorithm": "scaffold", "server_momentum": 0.9}, "does not fit scaffold"),
        ({"algorithm": "feddyn", "server_momentum": 0.9}, "does not fit feddyn"),
        ({"optimizer": "adamax"}, "'sgd', 'adam' or 'adamw'"),
        ({"optimizer": "adam", "adam_eps": 0.0}, "greater than 0"),
        ({"optimizer": "adam", "momentum": "local"}, "momentum = local is SGD's: adam begins"),
        ({"optimizer": "adamw", "momentum": "global"}, 'choose momentum = "reset"'),
    ],
)
def test_meaningless_values_are_refused(changes: dict[str, Any], says: str) -> None:
    """A configuration that exists can be trained."""
    with pytest.raises(ValidationError, match=says):
        config(**changes)


def test_keys_of_another_algorithm_have_no_meaning() -> None:
    """They are None, and outside the identity. An algorithm's own keys have its own defaults."""
    assert config(prox_mu=1.0, server_lr=3.0, dyn_alpha=2.0, adam_eps=1.0) == config()
    assert canonical(config(prox_mu=1.0)) == {**BASE, "seed": 0, "recipe": 1}
    scaffold = config(algorithm="scaffold", prox_mu=1.0)
    assert scaffold == config(algorithm="scaffold", server_lr=1.0)
    assert (scaffold.server_lr, scaffold.prox_mu, scaffold.server_tau) == (1.0, None, None)
    adaptive = config(algorithm="fedadam")
    assert (adaptive.server_lr, adaptive.server_beta1) == (0.01, 0.9)
    assert adaptive != config(algorithm="fedadam", server_lr=1.0)
    assert TrainConfig(**adaptive.model_dump()) == adaptive


def test_centralized_training_has_no_algorithm() -> None:
    """It has one client, and so nothing to correct."""
    baseline = config(centralized=True)
    assert baseline.algorithm is None
    assert config(centralized=True, algorithm="scaffold", server_lr=2.0) == baseline
    assert config(centralized=True, optimizer="adam") != baseline


def test_adam_has_no_momentum_of_its_own() -> None:
    """Without momentum and with a reset one, it is one trial; a factor has no meaning."""
    adam = config(optimizer="adam")
    assert (adam.momentum, adam.momentum_factor) == ("reset", None)
    assert config(optimizer="adam", momentum="none", momentum_factor=0.5) == adam
    assert (adam.adam_beta1, adam.adam_beta2, adam.adam_eps) == (0.9, 0.999, 1e-8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": "fedadam", "server_lr": 1e39}, "server_lr = 1e\\+39 is more than float32"),
        ({"algorithm": "fedadam", "server_tau": 1e-39}, "server_tau = 1e-39 is less than float32"),
        ({"algorithm": "feddyn", "dyn_alpha": 1e-40}, "raise dyn_alpha"),
        ({"optimizer": "adam", "adam_eps": 1e-50}, "raise adam_eps"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused(changes: dict[str, Any], says: str) -> None:
    """They would be 0 or infinite in every trial, and float64 holds them."""
    with pytest.raises(ValueError, match=says):
        check_feasible(config(**changes))
    check_feasible(config(**changes, dtype="float64"))


def test_shares_round_half_up() -> None:
    """As the decimals that were written, not as their binary neighbors."""
    assert [share(0.15, 10), share(0.25, 10), share(0.5, 5), share(0.49, 1)] == [2, 3, 3, 0]
    assert config(participation=0.25).cohort_size(10) == 3
    assert config(participation=0.01).cohort_size(10) == 1


configurations = st.fixed_dictionaries(
    {
        "normalizer": st.sampled_from(NORMALIZERS),
        "partition": st.sampled_from(["iid", "dirichlet", "dirichlet-class", "shards"]),
        "momentum": st.sampled_from(["none", "reset", "local", "global"]),
        "centralized": st.booleans(),
        "lr_schedule": st.sampled_from(["constant", "cosine", "step"]),
        "lr_step": st.integers(1, 9),
        "server_momentum": st.just(0.0),
        "algorithm": st.sampled_from(ALGORITHMS),
        "prox_mu": st.sampled_from([None, 0.01, 1.0]),
        "server_lr": st.sampled_from([None, 0.01, 1.0]),
        "participation": st.sampled_from([0.5, 1.0]),
        "diagnostics": st.booleans(),
        "keep_weights": st.booleans(),
        "weight_decay": st.sampled_from([0.0, 1e-4]),
        "alpha": st.floats(1e-3, 1e3),
        "freeze_round": st.integers(0, 24),
        "gn_groups": st.sampled_from([1, 2, 4]),
        "seed": st.integers(0, 10**6),
    }
).filter(lambda values: values["normalizer"] != "hbn" or values["algorithm"] == "fedavg")


configurations |= configurations.map(
    lambda values: values | {"algorithm": "fedavg", "server_momentum": 0.9}
) | configurations.map(
    lambda values: values | {"optimizer": "adam", "momentum": "none", "adam_eps": 1e-8}
)


@given(configurations)
def test_the_identity_is_the_configuration(values: dict[str, Any]) -> None:
    """An identity gives back its configuration. Unused keys do not change it."""
    first = config(**values)
    identity = canonical(first)
    del identity["recipe"]
    outside = {name: getattr(first, name) for name in OUTSIDE_IDENTITY}
    assert TrainConfig(**identity, **outside) == first
    for name, used in USED_WHEN.items():
        if not used(first.model_dump()):
            assert getattr(first, name) is None
            assert name not in identity


@given(configurations, configurations)
def test_ids_are_equal_exactly_where_configurations_are(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    """No two configurations share an id; no configuration has two."""
    one, two = config(**first), config(**second)
    trained = [c.model_dump(exclude=set(OUTSIDE_IDENTITY)) for c in (one, two)]
    same = TrialSpec.of(one).trial_id == TrialSpec.of(two).trial_id
    assert (trained[0] == trained[1]) == same


def test_the_told_size_of_a_model_is_near_its_own() -> None:
    """`plan` tells the disk of a snapshot without building the model."""
    from trainers.models import build
    from trainers.vector import Vector

    road = {"dataset": "camvid", "partition": "natural"}
    for own in OWN:
        more = road if own.task == "segmentation" else {}
        chosen = config(model=own.name, normalizer=(own.normalizers or ("bn",))[0], **more)
        vector = Vector(build(chosen, 3, 32, 10), torch.device("cpu"))
        assert own.elements is not None
        assert 0.8 < vector.elements(vector.end) / own.elements < 1.25
