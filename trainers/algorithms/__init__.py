"""Algorithms: FedAvg and those that change its local steps or its server, one file each.

Other packages add algorithms as entry points of the group `fedsweep.algorithms`. Each names a
subclass of `Algorithm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from trainers.algorithms.algorithm import OF_CLIENTS, Algorithm, Turn, move
from trainers.config import ALGORITHM
from trainers.own_algorithms import BY_NAME

__all__ = ["OF_CLIENTS", "Algorithm", "Turn", "find", "move"]


def find(name: str) -> type[Algorithm]:
    """Return the class of one of ours, or of another package's.

    Raises:
        ValueError: no installed package offers it, or what it offers is no `Algorithm`.

    """
    if (own := BY_NAME.get(name)) is not None:
        module = import_module(f"{__name__}.{own.name}")
        return cast("type[Algorithm]", getattr(module, own.kind))
    loaded = ALGORITHM.load(name)
    if not isinstance(loaded, type) or not issubclass(loaded, Algorithm):
        point = ALGORITHM.offered(name)
        value = point.value if point is not None else name
        raise ValueError(  # noqa: TRY004  # as for every other part of another package
            f"{value}, offered as {name}, is no class that derives from Algorithm: correct its "
            "package"
        )
    return loaded
