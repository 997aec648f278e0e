"""Packages that a trial needs, and a check that they can be imported on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fedsweep.errors import (
    PackageMissing,
)
from fedsweep.execution.faults import one_line
from trainers.engines import engine_of
from trainers.registry import Registry


def require_packages(trial_id: str, config: Mapping[str, Any]) -> None:
    """Check that this machine has the packages of a trial's model, normalizer and algorithm.

    Raises:
        PackageMissing: a package is missing; the message names it and the remedy.

    """
    if (missing := missing_package(config)) is not None:
        raise PackageMissing(f"trial {trial_id} cannot run here: {missing}", missing.lack)


def missing_package(need: Mapping[str, Any]) -> PackageMissing | None:
    """Return a refusal if a part's package is missing, None otherwise."""
    checks: dict[str, Callable[[Any], str | None]] = {
        "model": missing_module,
        "normalizer": _missing_normalizer,
        "algorithm": _missing_algorithm,
    }
    for field, check in checks.items():
        if (problem := check(need.get(field))) is not None:
            return PackageMissing(problem, ((field, need[field]),))
    return None


def missing_module(model: str) -> str | None:
    """Return a sentence if a module that a model needs cannot be imported here."""
    modules = engine_of().MODEL_MODULES.get(model, ())
    if not all(map(find_spec, modules)):
        package = "'fedsweep[segmentation]'" if model == "deeplabv3plus" else modules[0]
        return f"{model} needs packages: pip install {package}"
    for module in modules:
        if (problem := import_error(module)) is not None:
            return f"{model} needs {module}, {problem}"
    return None


def _missing_normalizer(name: str) -> str | None:
    """Return a sentence if a normalizer of another package cannot be imported here."""
    from trainers.config import NORMALIZER

    return _missing_part(NORMALIZER, name, engine_of().load_normalizer)


def _missing_algorithm(name: str | None) -> str | None:
    """Return a sentence if an algorithm of another package cannot be imported here."""
    from trainers.config import ALGORITHM

    # Centralized training has none.
    return _missing_part(ALGORITHM, name, engine_of().load_algorithm) if name else None


def _missing_part(registry: Registry, name: str, load: Callable[[str], None]) -> str | None:
    """Return a sentence if a part of another package cannot be imported here."""
    if name in registry.ours:
        return None
    if name not in registry.names():
        return f"{registry.key} {name} is offered by no package: install its own"
    try:
        load(name)
    except ValueError:  # the same on every machine: its trials fail with this error
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of another package
        problem = f"{registry.key} {name} cannot be imported ({one_line(error)})"
        return f"{problem}: mend the installation of its package"
    return None


def import_error(module: str) -> str | None:
    """Import a module. Return the end of a sentence if that fails, None otherwise."""
    try:
        import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a broken installation has many faces
        return f"which cannot be imported here ({one_line(error)}): mend its installation"
    return None


def not_imported(config: Mapping[str, Any], error: ImportError) -> PackageMissing:
    """Return the refusal of a trial whose training met a failed import."""
    from trainers.config import ALGORITHM, NORMALIZER

    problem = f"a package cannot be imported here ({one_line(error)}): mend its installation"
    parts = [
        registry
        for registry in (NORMALIZER, ALGORITHM)
        if registry.offered(config.get(registry.key) or "")
    ]
    fields = [part.key for part in parts] or ["model", "dataset"]
    return PackageMissing(problem, tuple((name, config[name]) for name in fields))
