"""One step of training on made-up numbers: proof that a device can train.

It takes memory, convolves, differentiates, and compares what comes out with what must.
"""

from __future__ import annotations

import torch

ELEMENTS = 1 << 24
"""Numbers that are summed: 64 MB of memory. Their sum is exact in float32."""

SIDE, INNER = 8, 6
"""Pixels along the side of an image, and along the side of its convolution by 3x3."""


def rehearse(device: str) -> None:
    """Train one step on a device.

    Raises:
        ArithmeticError: the device computes wrong numbers.
        RuntimeError: torch cannot use the device, or it has too little memory.

    """
    images = torch.ones(2, 1, SIDE, SIDE, device=device)
    weight = torch.ones(4, 1, 3, 3, device=device, requires_grad=True)
    maps = torch.nn.functional.conv2d(images, weight)
    maps.sum().backward()  # type: ignore[no-untyped-call]  # untyped
    assert weight.grad is not None
    total = torch.ones(ELEMENTS, device=device).sum()
    results = {
        "a convolution": (maps.detach() == 9).all(),
        "a gradient": (weight.grad == 2 * INNER * INNER).all(),
        "a sum": total == ELEMENTS,
    }
    for name, right in results.items():
        if not right.item():
            raise ArithmeticError(f"{name} of ones came out wrong")


def reserve(elements: int, device: str) -> None:
    """Take memory for so many numbers, and give it back.

    Raises:
        RuntimeError: there is too little.

    """
    torch.empty(elements, device=device)
