"""What an attempt ran with: the versions of packages, the commit of our code, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fedsweep

PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "sqlalchemy")
"""Those of every attempt, beside our own."""
GIT_SECONDS = 5.0
"""A git that takes longer (a folder on a slow network) is done without."""


def provenance(
    processor: str, device: str, memory: int, more: Iterable[str] = ()
) -> dict[str, Any]:
    """What an attempt on a device runs with, to be kept as JSON; what is not known is None.

    `processor` is the device's model, `memory` its bytes; `more` names packages that its trial
    needs besides.
    """
    commit, dirty = code(Path(fedsweep.__file__).parent)
    packages = {name: v for name in (*PACKAGES, *more) if (v := package_version(name))}
    return {
        "packages": {"fedsweep": fedsweep.__version__} | packages,
        "python": platform.python_version(),
        "commit": commit,
        "dirty": dirty,
        "device": processor,
        "memory": memory,
        "driver": driver() if device.startswith("cuda") else None,
        "host": platform.node(),
        "platform": platform.platform(),
    }


@cache
def package_version(name: str) -> str | None:
    """The version of an installed package; None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def code(package: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout that a package lies in, and whether its code differs from it.

    None, None where there is no git or no checkout; also where a checkout only surrounds an
    installed package, as a project does its virtual environment. `trainers` lies beside it.
    """
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD") if tracked else None
    if not commit:
        return None, None
    changed = _git(package.parent, "status", "--porcelain", "--", package.name, "trainers")
    return commit, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder; None where it fails, or is not there."""
    # Where git itself started us (a hook, `git bisect run`), it says what to look at instead.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            # `git status` would take the index's lock, under the hands of whoever works there.
            env=clean | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    try:
        said = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return driver_in(said)


def driver_in(said: str) -> str | None:
    """The version in what the driver says of itself.

    >>> driver_in("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5 …")
    '550.54.15'
    """
    words = said.partition("\n")[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)
