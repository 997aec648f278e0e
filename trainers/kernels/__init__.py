"""Kernels of K lanes, written in Triton: each works for the clients of a round at the same time.

Tensors are lane-major and channels last. No tile, split or order of a sum depends on K, nothing is
added atomically, and no lane reads another one. So the bits of a lane depend on its own numbers
alone, and a lane that is not finite changes no other.

On a CPU, Triton's interpreter runs them, if TRITON_INTERPRET=1 was set before the import.
"""

from trainers.kernels.convolution import conv, conv_input_gradient, conv_weight_gradient
from trainers.kernels.head import (
    cross_entropy,
    linear,
    linear_backward,
    max_pool2,
    max_pool2_backward,
    mean_pool,
)
from trainers.kernels.normalization import (
    group_normalize,
    group_normalize_backward,
    normalize,
    normalize_backward,
    shift,
    shift_backward,
)
from trainers.kernels.rows import (
    clip,
    clip_rows,
    descend,
    standardize,
    standardize_backward,
    weight_norm,
    weight_norm_backward,
)

__all__ = [
    "VERSION",
    "clip",
    "clip_rows",
    "conv",
    "conv_input_gradient",
    "conv_weight_gradient",
    "cross_entropy",
    "descend",
    "group_normalize",
    "group_normalize_backward",
    "linear",
    "linear_backward",
    "max_pool2",
    "max_pool2_backward",
    "mean_pool",
    "normalize",
    "normalize_backward",
    "shift",
    "shift_backward",
    "standardize",
    "standardize_backward",
    "weight_norm",
    "weight_norm_backward",
]

VERSION = 1
"""Raised with every change of a tile or of an order of a sum. It is part of the numerics."""
