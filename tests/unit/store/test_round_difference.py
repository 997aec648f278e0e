"""Differences between a round that was trained again and the stored one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedsweep.plans import ClientScore, Round
from fedsweep.store.round_difference import Differs, as_stored, differences

ROUND = Round(
    round=2,
    phase="explore",
    train_loss=1.5,
    test_loss=None,
    test_accuracy=0.25,
    validation_loss=None,
    validation_accuracy=None,
    bytes_up=8,
    bytes_down=8,
    seconds=0.5,
    statistics_mismatch_layers={"a": 0.1, "b": 0.2},
    clients=(ClientScore(0, 10, 0.5), ClientScore(3, 20, 0.125)),
)
CLIENTS = {score.client: score for score in ROUND.clients}


def found(again: Round) -> list[Differs]:
    return list(differences(as_stored(ROUND), CLIENTS, again))


def test_equal_rounds_do_not_differ_and_their_seconds_do_not_count() -> None:
    """Nor the order of the clients."""
    assert found(replace(ROUND, seconds=9.0, clients=ROUND.clients[::-1])) == []


def test_one_bit_is_a_difference_and_all_are_told() -> None:
    """In the order of the columns, then of the clients."""
    above = math.nextafter(1.5, 2.0)
    again = replace(ROUND, train_loss=above, bytes_up=9, clients=(ClientScore(0, 11, 0.5),))
    assert found(again) == [
        Differs(2, "train_loss", 1.5, above),
        Differs(2, "bytes_up", 8, 9),
        Differs(2, "samples of client 0", 10, 11),
        Differs(2, "test_accuracy of client 3", 0.125, None),
        Differs(2, "samples of client 3", 20, None),
    ]


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        ({"train_loss": 1.0}, 0.5),
        ({"test_accuracy": None}, math.inf),
        ({"phase": "calibrate"}, math.inf),
        ({"statistics_mismatch_layers": {"a": 0.1, "b": 0.7}}, 0.5),
        ({"statistics_mismatch_layers": {"a": 0.1}}, math.inf),
        ({"statistics_mismatch_layers": None}, math.inf),
    ],
)
def test_numbers_lie_apart_and_what_is_none_lies_infinitely_far(
    change: dict[str, object], apart: float
) -> None:
    """The largest distance of a layer counts."""
    (differs,) = found(replace(ROUND, **change))  # type: ignore[arg-type]  # its fields
    assert differs.apart == pytest.approx(apart)
