"""Triton's compiler: a check that it works on this machine. It needs a C compiler."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

ELEMENTS = 16


@triton.jit
def _double(values, elements: tl.constexpr):
    at = values + tl.arange(0, elements)
    tl.store(at, 2 * tl.load(at))


@cache
def refusal(device: str) -> str | None:
    """Return why Triton cannot compile and run a kernel for a device; None if it can."""
    try:
        values = torch.ones(ELEMENTS, device=device)
        _double[(1,)](values, ELEMENTS)
        doubled = bool((values == 2).all())
    except Exception as error:  # noqa: BLE001  # any failure of a compiler, a linker or a driver
        reason = str(error).strip() or type(error).__name__
        return f"Triton cannot compile kernels here ({reason.splitlines()[0]})"
    return None if doubled else "a kernel that Triton compiled gives wrong numbers"
