"""Rounds of every model with every normalizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.unit.trainers.arms import JOINT, NORMALIZERS
from tests.unit.trainers.photos import few_photos, on_photos
from trainers import fedavg
from trainers.own_models import OWN, facts

OFTEN = ({"normalizer": "bn"}, {"normalizer": "fixbn", "freeze_round": 2})
"""The arms that `make test` trains the large models with."""

OF_TIMM = ("timm:test_resnet", "timm:test_efficientnet")
"""Small models of timm. All BatchNorm layers of the first have an activation."""


def pairs() -> Iterator[Any]:
    """Yield each model for classification with each arm."""
    models = [own.name for own in OWN if own.task == "classification"]
    for model, arm in itertools.product([*models, *OF_TIMM], [*NORMALIZERS, *JOINT]):
        slow = model == "resnet50" or (model == "resnet18" and arm not in OFTEN)
        marks = [pytest.mark.slow] if slow else []
        yield pytest.param(model, dict(arm), marks=marks, id=f"{model}-{arm}")


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("model", "arm"), list(pairs()))
def test_a_model_trains_with_a_normalizer_or_is_refused(model: str, arm: dict[str, Any]) -> None:
    """Round 2 moves every weight matrix to finite numbers; a refusal names the remedy."""
    own = facts(model)
    assert own is not None
    kept = own.normalizers and arm["normalizer"] not in own.normalizers
    if kept or (arm in JOINT and model == "mobilenet_v2"):
        with pytest.raises(ValidationError, match=r"does not fit normalizer = .*: choose normal"):
            on_photos(model=model, **arm)
        return
    frozen = {"freeze_round": 1} if "freeze_round" in arm else {}
    rounds = fedavg.run(on_photos(model=model, **arm | frozen), few_photos())
    (before, _), (after, last) = ((r.weights(), r) for r in rounds)
    assert last.test_loss is not None
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    # A scale near 1 may stay, because the bound on the gradient makes its step too small.
    weights = [name for name, tensor in after.items() if tensor.dim() > 1]
    assert weights
    assert [name for name in weights if torch.equal(after[name], before[name])] == []


@pytest.mark.parametrize("model", ["mobilenet_v2", "timm:test_efficientnet"])
def test_the_order_of_clients_does_not_show_with_dropout(model: str) -> None:
    """The generator is set before each step. A resumed trial gives the same numbers too."""
    config, data = on_photos(model=model), few_photos()
    first, last = ((r.weights(), r.state()) for r in fedavg.run(config, data))
    backwards = list(fedavg.run(config, data, visit=lambda m: sorted(m, reverse=True)))[-1]
    (resumed,) = fedavg.run(config, data, first[1])
    for other in (backwards, resumed):
        assert torch.equal(other.state().tensors["server"], last[1].tensors["server"])
