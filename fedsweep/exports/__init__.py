"""Exports of the results for other tools: Parquet, TensorBoard and MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from fedsweep.errors import PackageMissing

ShowProgress = Callable[[str, int, int | None], None]
"""Called with the part that is written, the count so far, and the total if it is known."""


def require(export: str, extra: str, *packages: str) -> None:
    """Check that the packages of an export are installed.

    Raises:
        PackageMissing: a package is missing. The message says how to install it.

    """
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise PackageMissing(f"export {export} needs packages: pip install 'fedsweep[{extra}]'")
