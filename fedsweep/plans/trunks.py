"""Training that the trials of a plan share: how many rounds and snapshots it takes."""

from __future__ import annotations

from collections.abc import Sequence

from fedsweep.plans.identity import fork_round
from fedsweep.plans.trials import TrialSpec


def own_rounds(trials: Sequence[TrialSpec]) -> list[int]:
    """Return the rounds that each of these trials trains itself if they share trunks. The trial
    that goes furthest trains the whole trunk.
    """
    furthest: dict[str, tuple[int, int]] = {}
    own = []
    for n, trial in enumerate(trials):
        fork = 0
        if trial.trunk is not None:
            fork = fork_round(trial.config)
            if fork > furthest.get(trial.trunk, (-1, 0))[0]:
                furthest[trial.trunk] = (fork, n)
        own.append(trial.config.rounds - fork)
    for fork, n in furthest.values():
        own[n] += fork
    return own


def most_forks(trials: Sequence[TrialSpec]) -> int:
    """Return the maximum number of snapshots that a trunk of these trials needs: one at each round
    at which a trial forks.
    """
    forks: dict[str, set[int]] = {}
    for trial in trials:
        if trial.trunk is not None and fork_round(trial.config) < trial.config.rounds:
            forks.setdefault(trial.trunk, set()).add(fork_round(trial.config))
    return max(map(len, forks.values()), default=0)
