"""The identity of a trial."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsweep.spec import TrialSpec
from trainers.config import STATE_ELEMENTS, USED_WHEN, TrainConfig, canonical, share

BASE: dict[str, Any] = {
    "dataset": "digits",
    "model": "cnn",
    "normalizer": "bn",
    "alpha": 0.1,
    "clients": 10,
    "rounds": 24,
    "local_steps": 5,
    "batch_size": 20,
    "lr": 0.05,
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**BASE, **changes})


def test_released_ids_never_change() -> None:
    """These ids stand in people's databases: a change needs a raised recipe, and a new id."""
    assert TrialSpec.of(config()).trial_id == "f0d94cd2c12c8531228c"
    fixbn = config(normalizer="fixbn", freeze_round=12, seed=3)
    assert TrialSpec.of(fixbn).trial_id == "94b809ddcaaa3b450493"


def test_defaults_and_unused_keys_are_left_out_of_the_identity() -> None:
    """Only what was chosen, the seed and the recipe remain."""
    spelt_out = config(
        clip_norm=10.0,
        freeze="layer",
        freeze_round=3,
        gn_groups=4,
        participation=1,
        dtype="float32",
    )
    assert spelt_out == config()
    assert canonical(spelt_out) == {**BASE, "seed": 0, "recipe": 1}


def test_an_integer_and_its_float_are_one_value() -> None:
    """1 and 1.0, 20 and 20.0."""
    assert config(alpha=1, batch_size=20.0) == config(alpha=1.0, batch_size=20)
    assert TrialSpec.of(config(alpha=1)) == TrialSpec.of(config(alpha=1.0))


def test_zero_has_no_sign() -> None:
    """-0.0 and 0.0 are one value, and one id."""
    assert TrialSpec.of(config(clip_norm=-0.0)) == TrialSpec.of(config(clip_norm=0.0))


def test_evaluating_less_often_is_the_same_trial() -> None:
    """What is measured is no part of what is trained."""
    assert TrialSpec.of(config(evaluate_every=5)).trial_id == TrialSpec.of(config()).trial_id


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
        ({"colour": "red"}, "Extra inputs"),
        ({"seed": 2**63}, "less than or equal to"),
        ({"dataset": "imagefolder", "image_size": 3}, "4 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    """A configuration that exists can be trained."""
    with pytest.raises(ValidationError, match=says):
        config(**changes)


def test_shares_round_half_up() -> None:
    """As the decimals that were written, not as their binary neighbours."""
    assert [share(0.15, 10), share(0.25, 10), share(0.5, 5), share(0.49, 1)] == [2, 3, 3, 0]
    assert config(participation=0.25).cohort == 3
    assert config(participation=0.01).cohort == 1


configurations = st.fixed_dictionaries(
    {
        "normalizer": st.sampled_from(["bn", "gn", "fixbn"]),
        "partition": st.sampled_from(["iid", "dirichlet", "shards"]),
        "momentum": st.sampled_from(["none", "reset"]),
        "weight_decay": st.sampled_from([0.0, 1e-4]),
        "alpha": st.floats(1e-3, 1e3),
        "freeze_round": st.integers(0, 24),
        "gn_groups": st.sampled_from([1, 2, 4]),
        "seed": st.integers(0, 10**6),
    }
)


@given(configurations)
def test_the_identity_is_the_configuration(values: dict[str, Any]) -> None:
    """A configuration comes back from its identity, whatever unused keys it was given with."""
    first = config(**values)
    identity = canonical(first)
    del identity["recipe"]
    assert TrainConfig(**identity) == first
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
    assert (one == two) == (TrialSpec.of(one).trial_id == TrialSpec.of(two).trial_id)


def test_the_told_size_of_a_model_is_near_its_own() -> None:
    """`plan` tells the disk of a snapshot without building the model."""
    from trainers.models import build
    from trainers.vector import Vector

    for model, channels, size in (("cnn", 3, 32), ("resnet20", 3, 32)):
        import torch

        vector = Vector(build(config(model=model), channels, size, 10), torch.device("cpu"))
        assert 0.8 < vector.elements / STATE_ELEMENTS[model] < 1.25
