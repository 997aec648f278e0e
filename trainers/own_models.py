"""Our own models, each declared once: its parts, and the facts that a plan needs.

This file imports no torch, so that planning a sweep stays fast. The functions are in
`trainers.models`, which explains them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Task = Literal["classification", "segmentation"]
"""Classification gives one class for each image, segmentation one for each pixel."""


@dataclass(frozen=True)
class OwnModel:
    """One of our own models."""

    name: str
    function: str
    """The function of `trainers.models` that builds it."""
    about: str
    """Its architecture and the images that it is for, in words."""
    channels: tuple[int, ...] = ()
    """Channels that a normalizer meets. It is empty if they are not known, or if there are none."""
    elements: int | None = None
    """Elements of its state, about: to tell a plan's disk without building it. None: unknown."""
    modules: tuple[str, ...] = ()
    """Modules to import, beyond those of every model."""
    packages: tuple[str, ...] = ()
    """Packages that an attempt records. The version of the first one is part of the numerics."""
    extra: str = ""
    """The extra of fedsweep that installs them; "" if fedsweep itself does."""
    task: Task = "classification"
    uses_generator: bool = False
    """True if torch's random generator decides its numbers, as in dropout."""
    side_multiple: int = 1
    """The sides of an image must be multiples of this number of pixels."""
    smallest_side: int = 1
    """Side of the smallest square image that it takes, in pixels."""
    why_smallest: str = ""
    """End of the sentence that refuses a smaller image."""
    normalizers: tuple[str, ...] = ()
    """The normalizers that it can be trained with. It is empty if it takes all of them."""
    why_normalizers: str = ""
    """Reason in the sentence that refuses the others."""


OWN = (
    OwnModel(
        "cnn",
        "SmallCNN",
        "two convolutions, each normalized, rectified and pooled, for 8 to 32 pixels",
        (32, 64),
        67_000,
        smallest_side=4,
        why_smallest="which halves it twice",
    ),
    OwnModel(
        "resnet8",
        "resnet8",
        "the ResNet of He et al. 2016 for CIFAR with one block in each stage, for 8 to 32 pixels",
        (16, 32, 64),
        77_000,
    ),
    OwnModel(
        "resnet20",
        "resnet20",
        "the ResNet of He et al. 2016 for CIFAR, for 8 to 32 pixels",
        (16, 32, 64),
        274_000,
    ),
    OwnModel(
        "resnet18",
        "resnet18",
        "torchvision's, with a 3×3 stem and no pooling, for 32 or 64 pixels",
        (64, 128, 256, 512),
        11_200_000,
        modules=("torchvision",),
        packages=("torchvision",),
    ),
    OwnModel(
        "resnet50",
        "resnet50",
        "torchvision's, with a 3×3 stem and no pooling, for 32 or 64 pixels",
        (64, 128, 256, 512, 1024, 2048),
        23_600_000,
        modules=("torchvision",),
        packages=("torchvision",),
    ),
    OwnModel(
        "mobilenet_v2",
        "mobilenet_v2",
        "torchvision's; the stem's stride is 1, not 2, as is usual for CIFAR",
        (16, 24, 32, 64, 96, 144, 160, 192, 320, 384, 576, 960, 1280),
        2_270_000,
        modules=("torchvision",),
        packages=("torchvision",),
        uses_generator=True,
    ),
    OwnModel(
        "vit_tiny",
        "vit_tiny",
        "torchvision's ViT in the size of DeiT-Ti, with patches of 4×4 pixels",
        (),
        5_370_000,
        modules=("torchvision",),
        packages=("torchvision",),
        side_multiple=4,
        smallest_side=4,
        why_smallest="which cuts it into patches of 4 by 4 pixels",
        normalizers=("ln",),
        why_normalizers="it has no BatchNorm layers and keeps its own LayerNorm layers",
    ),
    OwnModel(
        "deeplabv3plus",
        "deeplabv3plus",
        "DeepLabV3+ with a MobileNetV2 encoder, for road scenes",
        (16, 24, 32, 48, 64, 96, 144, 160, 192, 256, 320, 384, 576, 960, 1280),
        4_420_000,
        modules=("segmentation_models_pytorch", "torchmetrics"),
        packages=("segmentation-models-pytorch", "torchmetrics"),
        extra="segmentation",
        task="segmentation",
        uses_generator=True,
        side_multiple=16,
    ),
)
"""All of them, in the order in which messages name them."""

TIMM = "timm:"
"""The beginning of the names of timm's models: timm:resnet26."""

OF_TIMM = OwnModel(
    TIMM,
    "timm_model",
    "any model of timm for images",
    modules=("timm",),
    packages=("timm",),
    extra="timm",
    uses_generator=True,
)
"""The facts that all of timm's models have in common."""

_BY_NAME = {own.name: own for own in OWN}


def facts(name: str) -> OwnModel | None:
    """Return the facts of one of our models, or those of all of timm's; None for other names."""
    return OF_TIMM if name.startswith(TIMM) else _BY_NAME.get(name)


def names_for(task: Task) -> str:
    """Return the names of our models for a task, as a sentence lists them."""
    *names, last = [own.name for own in OWN if own.task == task]
    return f"{', '.join(names)} or {last}" if names else last


def timm_problem(name: str) -> str | None:
    """Return why timm has no model of this name, `timm:NAME`; None if it has, or is not here.

    The names are read from timm's files, because to import it would import torch.
    """
    known, architecture = _timm_names(), name.removeprefix(TIMM)
    if not known or architecture in known:
        return None
    plain = architecture.partition(".")[0]
    if plain in known:
        return f"{name} names weights of timm: write {TIMM}{plain}, and pretrained for the weights"
    close = difflib.get_close_matches(architecture, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {TIMM}{close[0]}?" if close else "timm.list_models() lists them"
    return f"the timm that is installed here has no model {architecture}: {hint}"


@cache
def _timm_names() -> frozenset[str]:
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    files = Path(spec.origin).with_name("models").glob("*.py")
    texts = [file.read_text(encoding="utf-8") for file in files]
    return frozenset(name for text in texts for name in _REGISTERED.findall(text))


_REGISTERED = re.compile(r"^@register_model[ \t]*\n(?:@.*\n){0,20}def (\w+)\(", re.MULTILINE)
