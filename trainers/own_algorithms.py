"""Our own algorithms, each declared once: its keys with their defaults, and its state.

This file imports no torch, so that planning a sweep stays fast. Each algorithm is a file of
`trainers.algorithms` with the symbols of its paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OwnAlgorithm:
    """One of our own algorithms."""

    name: str
    """Its name in a plan, which is also that of its module in `trainers.algorithms`."""
    kind: str
    """The class in the module."""
    at_clients: str
    """Its change of the local steps, in words."""
    at_server: str
    """Its server's step, in words."""
    defaults: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The keys of a plan that it uses, and their defaults. A paper that tunes a key for each task
    fixes no default: the choice is then ours."""
    averages: bool = False
    """True if its server takes the cohort's average, to which `server_momentum` may be added."""
    server_vectors: int = 0
    """The vectors of the server, each as long as the averaged parameters, in a snapshot."""
    client_vectors: int = 0
    """The vectors of each client in a snapshot."""


# Reddi et al. 2021 fix beta_1, beta_2 and tau, and tune the server's learning rate.
_ADAPTIVE = {"server_lr": 0.01, "server_beta1": 0.9, "server_beta2": 0.99, "server_tau": 1e-3}

ADAPTIVE_STEP = "adaptive step, without bias correction"

OWN = (
    OwnAlgorithm("fedavg", "FedAvg", "SGD", "average", averages=True),
    # Li et al. 2020 choose mu for each data set from 0.001, 0.01, 0.1 and 1.
    OwnAlgorithm(
        "fedprox",
        "FedProx",
        "pulled to the server's parameters",
        "average",
        {"prox_mu": 0.01},
        averages=True,
    ),
    # Karimireddy et al. 2020 use eta_g = 1 in their experiments.
    OwnAlgorithm(
        "scaffold",
        "Scaffold",
        "control variates (option II), which travel too",
        "average",
        {"server_lr": 1.0},
        server_vectors=1,
        client_vectors=1,
    ),
    OwnAlgorithm("fedadam", "FedAdam", "SGD", ADAPTIVE_STEP, _ADAPTIVE, server_vectors=2),
    OwnAlgorithm("fedyogi", "FedYogi", "SGD", ADAPTIVE_STEP, _ADAPTIVE, server_vectors=2),
    # Acar et al. 2021 choose alpha for each data set from 0.001, 0.01 and 0.1.
    OwnAlgorithm(
        "feddyn",
        "FedDyn",
        "dynamic regularizer",
        "average, corrected by the state h",
        {"dyn_alpha": 0.01},
        server_vectors=1,
        client_vectors=1,
    ),
)
"""All of them. The first one is the default."""

BY_NAME = {own.name: own for own in OWN}

KEYS = tuple(dict.fromkeys(key for own in OWN for key in own.defaults))
"""The keys of all algorithms. A foreign algorithm may use any of them."""
