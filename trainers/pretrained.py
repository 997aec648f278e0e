"""Initial weights from a file, by torch's names.

Names are compared before a normalizer changes the convolutions, so that weights fit under every
normalizer. A file that fits only in part is refused. Exceptions are told: the output layer, the
tensors of normalization layers, and the tensors that single clients kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

COUNT = "num_batches_tracked"
"""The end of the names of torch's step counts, which no normalizer here has."""

CLIENTS = "clients."
"""The beginning of the names of tensors that single clients kept."""

REPARAMETRIZED = ".parametrizations."
"""A part of the names of the parameters of a changed convolution."""


class Misfit(ValueError):
    """The weights do not fit the model."""


@dataclass(frozen=True)
class Fitted:
    """A model that has its weights, except those of convolutions that are not changed yet."""

    later: Mapping[str, Tensor]
    """The parameters of changed convolutions, by name."""
    notes: tuple[str, ...]
    """Sentences for the trial's log about tensors that are not taken."""

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Copy the parameters of the changed convolutions.

        Raises:
            Misfit: the convolutions are not changed in this way.

        """
        state = dict(model.named_parameters())
        for name, tensor in self.later.items():
            if name not in state:
                raise Misfit(f"{name} belongs to another normalizer's convolution")
            _copy(name, tensor, state[name])


@torch.no_grad()
def fit(model: nn.Module, weights: Mapping[str, Tensor], made: Collection[nn.Module]) -> Fitted:
    """Copy weights into a model. `made` are the normalizer's layers.

    An output layer that the file lacks, or has in another size, keeps its initial weights.

    Raises:
        Misfit: another weight has no place, or another layer has no weights in the file.

    """
    norms = {path for path, module in model.named_modules() if module in made}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    targets = {name: t for name, t in tensors.items() if t.is_floating_point()}
    given = {name: t for name, t in weights.items() if not name.endswith(COUNT)}
    _check_finite(given)
    kept = [name for name in given if name.startswith(CLIENTS)]
    later = {name: t for name, t in given.items() if REPARAMETRIZED in name and name not in kept}
    plain = {name: t for name, t in given.items() if name not in kept and name not in later}

    head = _head(model)
    of_head = {name for name in targets if _layer(name) == head}
    is_new_head = any(
        name not in plain or plain[name].shape != targets[name].shape for name in of_head
    )
    if is_new_head:
        plain = {name: t for name, t in plain.items() if _layer(name) != head}
        targets = {name: t for name, t in targets.items() if name not in of_head}
    left_out = sorted(plain.keys() - targets.keys())
    new = sorted(targets.keys() - plain.keys())
    changed = {name.partition(REPARAMETRIZED)[0] for name in later}
    _refuse(left_out, norms, "the model has no {}")
    _refuse(new, norms | changed, "the file has no {}")
    for name, target in targets.items():
        if name in plain:
            _copy(name, plain[name], target)
    if len(left_out) == len(plain) and not later:
        raise Misfit("it has weights of the output layer only")
    normalizations = [name for name in new if _layer(name) in norms]
    notes = {
        f"{len(plain) - len(left_out) + len(later)} tensors are taken": True,
        f"the output layer {head} is new, because the file has none of its size": is_new_head,
        f"left out, because the normalizer has no such tensors: {_several(left_out)}": left_out,
        f"new, because the file has no such tensors: {_several(normalizations)}": normalizations,
        f"left out, because single clients kept them: {_several(kept)}": kept,
    }
    return Fitted(later, tuple(note for note, applies in notes.items() if applies))


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise Misfit(f"{name} holds values that are not finite floating-point numbers")


def _refuse(names: Collection[str], layers: Collection[str], problem: str) -> None:
    """Refuse the first name of a tensor that belongs to none of these layers."""
    for name in names:
        if _layer(name) not in layers:
            raise Misfit(problem.format(name))


def _copy(name: str, given: Tensor, target: Tensor) -> None:
    if given.shape != target.shape:
        sizes = ["x".join(map(str, tensor.shape)) or "one number" for tensor in (given, target)]
        raise Misfit(f"{name} is {sizes[0]} in the file and {sizes[1]} in the model")
    target.copy_(given)


def _head(model: nn.Module) -> str:
    """Return the path of the output layer: the last convolution or linear layer."""
    kinds = (nn.Linear, nn.Conv2d)
    paths = [path for path, module in model.named_modules() if isinstance(module, kinds)]
    return paths[-1] if paths else ""


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0] if names else ''}{more}"
