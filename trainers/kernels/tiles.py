"""Sizes of tiles and layouts of windows, which all kernels have in common.

A tile depends on the shape of one lane alone, so that the bits of a lane depend on nothing else.
"""

from __future__ import annotations

import triton
from torch import Tensor

SMALLEST = 16
"""The shortest side of a tile: a matrix instruction has no shorter one."""

MOST_ELEMENTS = 2**31 - 2**20
"""Elements of a lane of a tensor, at most. Places within a lane are 32-bit numbers.

The last tile may reach beyond the lane, by less than 2**20 elements. Places of lanes have 64 bits.
"""

PRECISIONS = {"ieee": "ieee", "tf32x3": "tf32x3", "bf16": "ieee"}
"""Triton's name for the precision of a product. Products of bfloat16 are exact in float32."""

STRIDES = ("w_lane", "v_lane", "gain_lane", "g_lane", "gradient_lane", "gamma_lane")
WINDOWS = ("w", "v", "gradient", "dy", "gamma")
"""Arguments whose divisibility by 16 the compiler ignores in kernels that sum what they load.

It would decide how many elements a thread loads at once, and so the order of a sum. The stride of
a window depends on K: it is the row of the whole matrix, but for one lane torch reports the length
of the window.
"""


def power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`, at least 16."""
    return max(SMALLEST, int(triton.next_power_of_2(size)))


def precision(dot: str) -> str:
    """Return Triton's name for the precision of a product.

    Raises:
        ValueError: there is no such precision.

    """
    if dot not in PRECISIONS:
        raise ValueError(f"{dot} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[dot]


def check_size(elements: int) -> None:
    """Check that kernels can address the elements of a lane.

    Raises:
        ValueError: there are too many.

    """
    if elements > MOST_ELEMENTS:
        raise ValueError(f"{elements} numbers per client are too many: use smaller batches")


def inner(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return x [K, ...] so that each lane is contiguous; a window of a larger matrix stays one.

    With `like`, its numbers have that tensor's type.

    Raises:
        ValueError: a lane is too large.

    """
    check_size(x[0].numel())
    x = x if like is None else x.to(like.dtype)
    return x if x[0].is_contiguous() else x.contiguous()
