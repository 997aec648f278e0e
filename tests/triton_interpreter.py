"""Import the kernels of lanes for tests: Triton's interpreter runs them if there is no GPU.

Triton reads TRITON_INTERPRET when a kernel is defined, so the variable is set during these imports
only, and neither other kernels nor the programs that tests start see it. Triton's own functions
are kernels too. Kernels that another module has imported before are defined again.
"""

from __future__ import annotations

import importlib
import os
import sys
from unittest import mock

import torch

INTERPRETED = not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"

with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"} if INTERPRETED else {}):
    for name in ("triton.language.standard", "triton.language.random", "triton.language"):
        if INTERPRETED and name in sys.modules:
            importlib.reload(sys.modules[name])
    import triton.experimental.gluon  # noqa: F401  # otherwise the first launch imports it

    for name in [name for name in sys.modules if f"{name}.".startswith("trainers.kernels.")]:
        if INTERPRETED:
            del sys.modules[name]
    kernels = importlib.import_module("trainers.kernels")

__all__ = ["DEVICE", "INTERPRETED", "kernels"]
