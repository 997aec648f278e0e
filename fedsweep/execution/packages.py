"""Packages that a trial needs: their code in a plan, and a check that this machine has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fedsweep.errors import (
    PackageMissing,
    PlanError,
)
from fedsweep.execution.faults import one_line
from fedsweep.plans import SweepSpec, TrainConfig, Trials, pinned_by
from trainers import own_models
from trainers.config import ALGORITHM, IDENTIFIED, MODEL, NORMALIZER
from trainers.engines import engine_of
from trainers.registry import Registry, code_hash, code_of, loaded_hash


def require_packages(trial_id: str, config: Mapping[str, Any]) -> None:
    """Check that this machine has the packages of a trial's parts and data set.

    Raises:
        PackageMissing: a package is missing, or is another one than planned; the message names it
            and the remedy.

    """
    if (missing := missing_package(config)) is not None:
        raise PackageMissing(f"trial {trial_id} cannot run here: {missing}", missing.lack)


def missing_package(need: Mapping[str, Any]) -> PackageMissing | None:
    """Return a refusal if a package of a trial is missing here, or is another one than planned.

    A package of another version or other code than planned is not imported.
    """
    for registry in (MODEL, NORMALIZER, ALGORITHM):
        name = need.get(registry.key)
        if name is None or registry.has_own(name):  # centralized training has no algorithm
            continue
        if name not in registry.names():
            absent = f"{registry.key} {name} is offered by no package: install its own"
            return PackageMissing(absent, ((registry.key, name),))
    if (differs := _other_code(need)) is not None:
        return PackageMissing(differs, (("code", need["code"]),))
    checks: dict[str, Callable[[Any], str | None]] = {
        "model": missing_module,
        "normalizer": _missing_normalizer,
        "algorithm": _missing_algorithm,
        "dataset": missing_dataset,
    }
    for field, check in checks.items():
        if (problem := check(need.get(field))) is not None:
            return PackageMissing(problem, ((field, need[field]),))
    return None


def missing_module(model: str) -> str | None:
    """Return a sentence if a model, or a module that it needs, cannot be imported here."""
    own = own_models.facts(model)
    if own is None:
        return _not_loaded(MODEL, model, engine_of().load_model)
    modules = engine_of().MODEL_MODULES.get(own.name, ())
    if not all(map(find_spec, modules)):
        package = f"'fedsweep[{own.extra}]'" if own.extra else modules[0]
        return f"{model} needs packages: pip install {package}"
    for module in modules:
        if (problem := import_error(module)) is not None:
            return f"{model} needs {module}, {problem}"
    return None


def _missing_normalizer(name: str) -> str | None:
    """Return a sentence if a normalizer of another package cannot be imported here."""
    return _not_loaded(NORMALIZER, name, engine_of().load_normalizer)


def _missing_algorithm(name: str | None) -> str | None:
    """Return a sentence if an algorithm of another package cannot be imported here."""
    # Centralized training has none.
    return _not_loaded(ALGORITHM, name, engine_of().load_algorithm) if name else None


def _not_loaded(registry: Registry, name: str, load: Callable[[str], None]) -> str | None:
    """Return a sentence if a part of another package cannot be imported here."""
    if registry.has_own(name):
        return None
    try:
        load(name)
    except ValueError:  # the same on every machine: its trials fail with this error
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of another package
        problem = f"{registry.key} {name} cannot be imported ({one_line(error)})"
        return f"{problem}: mend the installation of its package"
    return None


def _other_code(need: Mapping[str, Any]) -> str | None:
    """Return a sentence if the packages of a trial are not those that it was planned with."""
    planned = need.get("code")
    if planned is None:
        return None
    try:
        installed = code_of(IDENTIFIED, need, loaded_hash)
    except ValueError as error:
        return f"{error}: install the code {planned}, with which the trial was planned"
    if installed == planned:
        return None
    return (
        f"the trial was planned with the code {planned}, and this worker has {installed}: install "
        "the planned code here and start a new worker, or plan again with this one"
    )


def pin_code(sweep: SweepSpec) -> SweepSpec:
    """Return the sweep with the code of its parts of other packages in its trials' identity.

    Raises:
        PlanError: the files of a package cannot be read.

    """
    names = [registry.key for registry in IDENTIFIED]

    @functools.cache
    def code(*parts: str) -> str | None:
        return code_of(IDENTIFIED, dict(zip(names, parts, strict=True)))

    def update(config: TrainConfig) -> Mapping[str, str]:
        if config.code is not None:
            return {}
        found = code(*(getattr(config, name) for name in names))
        return {} if found is None else {"code": found}

    trials = Trials.of(sweep.trials)
    configs = [*trials.distinct(*names, "code"), *(arm.config for arm in sweep.arms)]
    try:
        for config in [*trials.distinct("normalizer"), *(arm.config for arm in sweep.arms)]:
            if (point := NORMALIZER.offered(config.normalizer)) is not None:
                code_hash(point)  # it has no part in the identity, but its files must be here
        is_ours = not any(map(update, configs))
        return sweep if is_ours else pinned_by(sweep, update)
    except ValueError as error:
        raise PlanError(str(error)) from error


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
    problem = f"a package cannot be imported here ({one_line(error)}): mend its installation"
    parts = [
        registry
        for registry in (NORMALIZER, ALGORITHM)
        if registry.offered(config.get(registry.key) or "")
    ]
    fields = [part.key for part in parts] or ["model", "dataset"]
    return PackageMissing(problem, tuple((name, config[name]) for name in fields))
