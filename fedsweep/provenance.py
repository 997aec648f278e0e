"""The provenance of an attempt: versions of packages, the commit of the code, the machine."""

from __future__ import annotations

import json
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
"""The packages that are stored for every attempt, in addition to fedsweep."""
GIT_SECONDS = 5.0
"""The time limit of a git command. A folder on a slow network has no commit after that."""


def provenance(
    processor: str, device: str, memory: int, more: Iterable[str] = (), *, packed: bool = False
) -> dict[str, Any]:
    """Return the provenance of an attempt on a device, as JSON values; unknown values are None.

    `processor` is the device's model, and `memory` its bytes. `more` names the packages that the
    trial needs in addition to `PACKAGES`. `packed`: other trials may train in the process.
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
        "packed": packed,
        "driver": driver() if device.startswith("cuda") else None,
        "host": platform.node(),
        "platform": platform.platform(),
        "launch": launch(),
    }


LAUNCH = "FEDSWEEP_LAUNCH"
"""The variable that tells a launched worker its launch, as the JSON of `launch`."""


def launch() -> dict[str, str] | None:
    """Return the `id` and `kind` of the launch that started this worker, its `job`, and its `log`.

    None if a person started it.
    """
    text = os.environ.get(LAUNCH)
    return None if not text else {name: str(value) for name, value in json.loads(text).items()}


@cache
def package_version(name: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def code(package: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a package's checkout, and if the code differs from it.

    Both are None without git or a checkout. They are also None if the package is installed in a
    virtual environment inside a checkout, which does not track it. The package `trainers` lies in
    the same folder and is compared too.
    """
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD") if tracked else None
    if not commit:
        return None, None
    changed = _git(package.parent, "status", "--porcelain", "--", package.name, "trainers")
    return commit, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in a folder; None if it fails or git is not installed."""
    # If git started this process (a hook, `git bisect run`), its variables name another checkout.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            # Otherwise `git status` takes the index's lock, which disturbs a user's git commands.
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
    """Return the version of NVIDIA's driver; None if there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return driver_in(text)


def driver_in(text: str) -> str | None:
    """Return the version in the text of /proc/driver/nvidia/version.

    >>> driver_in("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5 …")
    '550.54.15'
    """
    words = text.partition("\n")[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)
