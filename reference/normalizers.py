"""The page on normalizers: their treatment in FedAvg, formulas and sources."""

from __future__ import annotations

from collections.abc import Iterator

from reference import docstrings
from reference.markdown import code, document, fence, table
from trainers.own_normalizers import KEPT, OWN, OwnNormalizer

SOURCE = "trainers/normalizers.py"


def page() -> str:
    """Return the page."""
    notation = docstrings.of_module(SOURCE).split("\n\n")[1]
    return document(
        "Normalizers",
        "A plan names a normalizer by the key [`normalizer`](plan-file.md#normalizer), as "
        '`normalizer = ["bn", "gn"]`. [Models](models.md) lists the models that take only some. '
        "Another package can [add one](../how-to/add-a-normalizer.md).",
        table(
            ["normalizer", "normalizes activations", "averaged", "per-client state", "test"],
            (
                [
                    f"[{code(own.name)}](#{own.name})",
                    own.activations,
                    own.averaged,
                    KEPT[own.keeps],
                    own.tested,
                ]
                for own in OWN
            ),
        ),
        "## Notation",
        fence(notation),
        *(block for own in OWN for block in _section(own)),
        sources=("trainers/own_normalizers.py", SOURCE),
    )


def _section(own: OwnNormalizer) -> Iterator[str]:
    told = docstrings.of_functions(SOURCE)
    yield f"## {code(own.name)}"
    yield fence(told[own.convolution if own.convolution != "leave" else own.layer])
    if own.repeats:
        yield (
            "A local step goes through the model twice, so that a model with dropout is refused. "
            "The first time, it has the batches of all clients of the round at once, which must "
            "fit the memory. The engine `stack` refuses it. Per BN layer of C channels, a client "
            "sends and receives 4 C elements more. A round with one client is one of `bn`."
        )
