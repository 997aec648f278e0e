"""The page on models."""

from __future__ import annotations

from reference.markdown import code, document, prose, table
from trainers.own_models import OF_TIMM, OWN, TIMM, OwnModel
from trainers.own_normalizers import REPEATING


def page() -> str:
    """Return the page."""
    return document(
        "Models",
        "A plan names a model by the key [`model`](plan-file.md#model). "
        "[`pretrained`](plan-file.md#pretrained) starts from weights in a file. Another package "
        "can [add a model](../how-to/add-a-model.md).",
        table(
            ["model", "architecture", "parameters", "task", "normalizers", "image side", "install"],
            (_row(own, own.name) for own in OWN),
        ),
        "## Models of timm",
        f"{code(TIMM + 'NAME')} is {OF_TIMM.about} ({code(_install(OF_TIMM))}). Each BatchNorm "
        "layer is exchanged for the normalizer's, by type. The activation in it, its eps and its "
        "momentum stay, and so do all other layers.",
        "- Weights of torchvision fit models of timm: those of its ResNet18 fit `timm:resnet18`, "
        "not `resnet18`, which has another stem.\n"
        '- A model without BatchNorm layers that has LayerNorm layers has `normalizer = "ln"`: '
        "its own layers, which normalize each token over its channels. In the other models, `ln` "
        "is over channels and pixels.\n"
        '- A model without normalization layers has `normalizer = "none"`.\n'
        "- Another normalizer would change nothing, and is refused. So is a model with a BatchNorm "
        "layer of another kind.\n"
        "- `plan` refuses names that timm lacks. A worker knows the rest, and fails such a trial "
        "as [`bad_data`](states-and-failures.md#bad_data) before its first round.",
        sources=("trainers/own_models.py",),
    )


def _row(own: OwnModel, name: str) -> list[str]:
    return [
        code(name),
        prose(own.about),
        f"{own.elements:,}" if own.elements is not None else "–",
        own.task,
        _normalizers(own),
        _side(own),
        code(_install(own)) if own.extra else "–",
    ]


def _normalizers(own: OwnModel) -> str:
    if own.normalizers:
        return ", ".join(map(code, own.normalizers))
    without = ", ".join(map(code, REPEATING))
    return f"all except {without}, because of dropout" if own.uses_generator else "all"


def _side(own: OwnModel) -> str:
    limits = []
    if own.smallest_side > 1:
        limits.append(f"{own.smallest_side} pixels or more")
    if own.side_multiple > 1:
        limits.append(f"a multiple of {own.side_multiple}")
    return ", ".join(limits) or "–"


def _install(own: OwnModel) -> str:
    return f"pip install 'fedsweep[{own.extra}]'"
