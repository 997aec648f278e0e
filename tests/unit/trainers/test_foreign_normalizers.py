"""Normalizers of other packages, before the first round."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainers.arms import config
from tests.unit.trainers.offers import offer
from trainers import seq
from trainers.config import NORMALIZER
from trainers.normalizers import Normalizer


class Shift(nn.Module):
    """x + beta, with a beta that torch's generator draws."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


class First(nn.Module):
    """It leaves one channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class Picky(nn.Module):
    """It refuses images in training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError(f"{x.shape[2]} rows are\ntoo few")
        return x


def broken(_channels: int, _config: object) -> nn.Module:
    raise KeyError("width")


def three(_channels: int, _config: object) -> Any:
    return 3


SHIFT = Normalizer(lambda channels, _: Shift(channels))
FIRST = Normalizer(lambda _channels, _: First())
PICKY = Normalizer(lambda _channels, _: Picky())
BROKEN, THREE = Normalizer(broken), Normalizer(three)
WRONG = 3
NAMES = ("SHIFT", "FIRST", "PICKY", "BROKEN", "THREE", "WRONG", "missing")


@pytest.fixture(autouse=True)
def _offered(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, NORMALIZER.group, **{name.lower(): f"{__name__}:{name}" for name in NAMES})


def test_a_normalizer_that_fits_is_accepted() -> None:
    """Torch's generator goes on as if no model was built for the check."""
    torch.manual_seed(1)
    follows = torch.rand(1)
    torch.manual_seed(1)
    assert seq.load(config(normalizer="shift"), None).classes == 10
    assert torch.equal(torch.rand(1), follows)


@pytest.mark.parametrize(
    ("normalizer", "reason"),
    [
        ("first", "RuntimeError: Given groups=1.*correct the package of the part, or choose an"),
        ("picky", "8 rows are too few"),
        ("broken", "KeyError: 'width' .correct the package of the part, or choose another one"),
        ("three", "Error: .*'?int'?.*correct the package of the part, or choose another one"),
        ("wrong", f"{__name__}:WRONG, offered as wrong, is no Normalizer"),
    ],
)
def test_a_normalizer_that_does_not_fit_is_refused_in_one_sentence(
    normalizer: str, reason: str
) -> None:
    """Before the first round, for one of our models too."""
    start = f"model = cnn cannot be trained on digits with normalizer = {normalizer}: "
    with pytest.raises(ValueError, match=f"{start}.*{reason}") as error:
        seq.load(config(normalizer=normalizer), None)
    assert "\n" not in str(error.value)


def test_a_failing_import_is_the_machine_s() -> None:
    """A worker passes such trials over. Another machine may have the module."""
    with pytest.raises(AttributeError, match="missing"):
        seq.load_normalizer("missing")
