"""The results for those who live elsewhere: Parquet, TensorBoard, MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from fedsweep.errors import PackageMissing

Progress = Callable[[str, int, int | None], None]
"""Told what is written, how much of it so far, and of how much, where that is known."""


def require(what: str, extra: str, *packages: str) -> None:
    """Check that an export's packages are here.

    Raises:
        PackageMissing: says how to get them.

    """
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise PackageMissing(f"export {what} needs packages: pip install 'fedsweep[{extra}]'")
