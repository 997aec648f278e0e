"""A check, before the first round, of a model that is not ours or starts from given weights.

A model with a normalizer of another package is checked too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers import models, own_models
from trainers.config import NORMALIZERS, TrainConfig
from trainers.data.dataset import Dataset
from trainers.own_normalizers import REPEATING
from trainers.pretrained import Misfit


def check(
    config: TrainConfig, data: Dataset, weights: Mapping[str, Tensor] | None
) -> tuple[str, ...]:
    """Build a trial's model once, and return the sentences about its weights.

    A model with a part that is not ours also computes the logits of two black images, as in a test
    and as in training. If a local step goes through it twice, it must not draw random numbers.

    Raises:
        ValueError: the model, its normalizer, its weights and the data do not fit each other. The
            message is one sentence for people.

    """
    notes: list[str] = []
    foreign = config.model not in models.OURS or config.normalizer not in NORMALIZERS
    shape = data.channels, data.size, data.classes
    try:
        _check_task(config, data)
        with torch.random.fork_rng(devices=[]):
            model = models.build(config, *shape, weights, notes.append)
            if foreign:
                _check_logits(model, data)
            if config.model not in models.OURS and config.normalizer in REPEATING:
                _check_repeats(model, data, config.normalizer)
    except Misfit as error:
        raise ValueError(
            f"pretrained = {config.pretrained} does not fit {config.model}: {error}: choose "
            "weights of this model"
        ) from error
    except (ImportError, OSError, MemoryError, torch.OutOfMemoryError):  # the machine's
        raise
    except Exception as error:
        if not foreign or "can't allocate memory" in str(error):
            raise
        raise ValueError(
            f"model = {config.model} cannot be trained on {config.dataset} with normalizer = "
            f"{config.normalizer}: {_one_line(error)}"
        ) from error
    return tuple(f"pretrained = {config.pretrained}: {note}" for note in notes)


def _check_task(config: TrainConfig, data: Dataset) -> None:
    if config.model in models.OURS:  # a plan has checked it
        return
    own = own_models.facts(config.model)
    task = models.find(config.model).task if own is None else own.task
    needed = "segmentation" if data.segmentation else "classification"
    if task != needed:
        raise ValueError(f"it is a model for {task}, and the data are for {needed}")


@torch.no_grad()
def _check_logits(model: nn.Module, data: Dataset) -> None:
    images = torch.zeros(2, data.channels, data.height, data.width)
    pixels = (data.height, data.width) if data.segmentation else ()
    images = images.to(next(model.parameters()).dtype)
    needed = (2, data.classes, *pixels)
    for training in (False, True):
        logits = model.train(training)(images)
        if isinstance(logits, Tensor) and tuple(logits.shape) == needed:
            continue
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"for two images it computes {shape}, and not logits of shape {needed}: correct its "
            "package, or choose another model"
        )


@torch.no_grad()
def _check_repeats(model: nn.Module, data: Dataset, normalizer: str) -> None:
    images = torch.zeros(2, data.channels, data.height, data.width)
    model.train()
    before = torch.get_rng_state()
    model(images.to(next(model.parameters()).dtype))
    if not torch.equal(torch.get_rng_state(), before):
        raise ValueError(
            f"it draws random numbers in training, as dropout does, and {normalizer} needs equal "
            "activations in two passes: choose normalizer = bn"
        )


def _one_line(error: Exception) -> str:
    """Return an error in one line. A ValueError speaks to people; others are code that fails."""
    text = " ".join(str(error).split())[:300]
    if text and isinstance(error, ValueError):
        return text
    return (
        f"{type(error).__name__}: {text} (correct the package of the part, or choose another one)"
    )
