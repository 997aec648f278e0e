"""Packages that a trial needs, and a check that they can be imported on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fedsweep.errors import (
    PackageMissing,
)
from fedsweep.execution.faults import one_line
from trainers.engines import engine_of


def require_packages(trial_id: str, config: Mapping[str, Any]) -> None:
    """Check that this machine has the packages of a trial's model, normalizer and data set.

    Raises:
        PackageMissing: a package is missing; the message names it and the remedy.

    """
    if (missing := missing_package(config)) is not None:
        raise PackageMissing(f"trial {trial_id} cannot run here: {missing}", missing.lack)


def missing_package(need: Mapping[str, Any]) -> PackageMissing | None:
    """Return a refusal if a package of a trial's model, normalizer or data set is missing."""
    checks = (
        ("model", missing_module),
        ("normalizer", _missing_normalizer),
        ("dataset", missing_dataset),
    )
    for field, check in checks:
        if (problem := check(need[field])) is not None:
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
    from trainers.config import NORMALIZER, NORMALIZERS

    if name in NORMALIZERS:
        return None
    if name not in NORMALIZER.names():
        return f"normalizer {name} is offered by no package: install its own"
    try:
        engine_of().load_normalizer(name)
    except ValueError:  # the same on every machine: its trials fail with this error
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of another package
        problem = f"normalizer {name} cannot be imported ({one_line(error)})"
        return f"{problem}: mend the installation of its package"
    return None


def missing_dataset(name: str) -> str | None:
    """Return a sentence if a package of a data set is missing here.

    An error of the package itself is met by `fedsweep.execution.data.missing_data`.
    """
    from trainers.config import DATASET
    from trainers.facts import HUGGING_FACE

    if name.startswith(HUGGING_FACE):
        from trainers.data.hub import NEEDS_PYARROW

        return None if find_spec("pyarrow") is not None else NEEDS_PYARROW
    if name not in DATASET.names():
        return f"data set {name} is offered by no package: install its own"
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
    from trainers.config import NORMALIZERS

    problem = f"a package cannot be imported here ({one_line(error)}): mend its installation"
    fields = ("model", "dataset") if config["normalizer"] in NORMALIZERS else ("normalizer",)
    return PackageMissing(problem, tuple((name, config[name]) for name in fields))
