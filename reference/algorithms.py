"""The page on algorithms: formulas, keys and defaults."""

from __future__ import annotations

from collections.abc import Iterator

from reference import docstrings
from reference.markdown import code, document, fence, table
from trainers.own_algorithms import OWN, OwnAlgorithm


def page() -> str:
    """Return the page."""
    return document(
        "Algorithms",
        "A plan names an algorithm by the key [`algorithm`](plan-file.md#algorithm). Clients are "
        "weighted by samples everywhere. Running statistics have one rule in all algorithms: they "
        "are averaged by samples, or frozen, as in FedAvg. Another package can "
        "[add an algorithm](../how-to/add-an-algorithm.md).",
        table(
            ["algorithm", "clients", "server", "keys and defaults"],
            (
                [f"[{code(own.name)}](#{own.name})", own.at_clients, own.at_server, _keys(own)]
                for own in OWN
            ),
        ),
        "The papers tune `prox_mu`, `dyn_alpha` and the `server_lr` of `fedadam` and `fedyogi` for "
        "each data set, so those defaults are ours. `hbn` needs `fedavg`. Centralized training has "
        "no algorithm.",
        "## Notation",
        fence(docstrings.of_module("trainers/algorithms/algorithm.py")),
        *(block for own in OWN for block in _section(own)),
        "## Momentum at the client",
        fence(docstrings.of_module("trainers/momentum.py").partition("\n\n")[2]),
        "## Adam at the client",
        fence(docstrings.of_module("trainers/adam.py").partition("\n\n")[2]),
        '## The rule `freeze_round = "auto"`',
        fence(docstrings.of_module("trainers/freeze.py").partition("\n\n")[2]),
        sources=("trainers/own_algorithms.py", "trainers/algorithms/"),
    )


def _keys(own: OwnAlgorithm) -> str:
    keys = dict(own.defaults) | ({"server_momentum": 0.0} if own.averages else {})
    return ", ".join(f"[{code(key)}](plan-file.md#{key}) {value:g}" for key, value in keys.items())


def _section(own: OwnAlgorithm) -> Iterator[str]:
    yield f"## {code(own.name)}"
    yield fence(docstrings.of_module(f"trainers/algorithms/{own.name}.py"))
