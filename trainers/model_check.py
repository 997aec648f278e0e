"""A check, before the first round, of a model that is not ours or starts from given weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers import models, own_models
from trainers.config import TrainConfig
from trainers.data.dataset import Dataset
from trainers.own_normalizers import REPEATING
from trainers.pretrained import Misfit


def check(
    config: TrainConfig, data: Dataset, weights: Mapping[str, Tensor] | None
) -> tuple[str, ...]:
    """Build a trial's model once, and return the sentences about its weights.

    A model that is not ours also computes the logits of two black images. If a local step goes
    through it twice, it also does so as in training.

    Raises:
        ValueError: the model, its normalizer, its weights and the data do not fit each other. The
            message is one sentence for people.

    """
    notes: list[str] = []
    try:
        _check_task(config, data)
        model = models.build(config, data.channels, data.size, data.classes, weights, notes.append)
        if config.model not in models.OURS:
            _check_logits(model, data)
            if config.normalizer in REPEATING:
                _check_repeats(model, data, config.normalizer)
    except Misfit as error:
        raise ValueError(
            f"pretrained = {config.pretrained} does not fit {config.model}: {error}"
        ) from error
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if config.model in models.OURS or "can't allocate memory" in str(error):
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
    model.eval()
    logits = model(images.to(next(model.parameters()).dtype))
    needed = (2, data.classes, *pixels)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != needed:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"for two images it computes {shape}, and not logits of shape {needed}")


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
    text = " ".join(str(error).split())
    return (
        text[:300]
        if text and isinstance(error, ValueError)
        else (f"{type(error).__name__}: {text[:300]}")
    )
