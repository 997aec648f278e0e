"""Kernels of lanes compile for an H100 without a GPU, and keep their numbers in registers."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.unit.trainers import sm90

pytestmark = [
    pytest.mark.skipif(
        not all((Path(sm90.BINARIES) / name).is_file() for name in ("ptxas", "cuobjdump")),
        reason="triton has no compiler for NVIDIA's GPUs here",
    ),
]

MOST_SPILLED = {"bf16": 0, "ieee": 0, "tf32x3": 8}
"""Bytes per thread that may be spilled, by the precision of products."""

MOST_SHARED = 227 * 1024
"""Bytes of shared memory that a block may have on an H100."""


def check(*cases: str) -> None:
    """Compile, print the table, and check what the kernels need."""
    usages = [sm90.Usage(*row) for row in sm90.answers("usage", list(cases))]
    table = "\n".join(
        f"{u.case:30} {u.kernel:40} {u.registers:4} registers {u.spills:4} spilled {u.shared:7} B"
        for u in usages
    )
    print(f"\n{table}")
    assert usages
    for usage in usages:
        dot = usage.case.split()[1]
        assert usage.spills <= MOST_SPILLED[dot], usage
        assert usage.registers <= 255, usage
        assert usage.shared <= MOST_SHARED, usage


WITHOUT_SUMS = {
    "batch_apply",
    "batch_gradient",
    "convolve",
    "group_apply",
    "group_gradient",
    "product",
    "shift_apply",
}
"""Kernels in which no thread adds numbers of a tile.

They add tile after tile. The order within a matrix product does not depend on how it is loaded.
"""


def test_no_kernel_that_sums_depends_on_the_number_of_lanes() -> None:
    """For one lane, torch reports another stride of a window, from which a compiler may profit."""
    families = ("convolutions", "normalizations", "heads", "rows")
    cases = [f"{name} {dot} 16-16" for name in families for dot in ("bf16", "ieee")]
    assert set(sm90.answers("lanes", [*cases, "convolutions ieee 3-16"])) == WITHOUT_SUMS


@pytest.mark.slow
def test_the_step_compiles_for_an_h100() -> None:
    """Functions of rows compile without spills."""
    check("rows ieee 3-16")


@pytest.mark.slow
@pytest.mark.parametrize("dot", sm90.PRECISIONS)
def test_convolutions_compile_for_an_h100(dot: str) -> None:
    """Those of ResNet20, and the widest of ResNet18, with strides of 1 and 2."""
    check(*(f"convolutions {dot} {channels}" for channels in sm90.WIDTHS | sm90.WIDEST))


@pytest.mark.slow
@pytest.mark.parametrize("dot", ["bf16", "ieee"])
def test_normalizations_compile_for_an_h100(dot: str) -> None:
    """BN, GN and shifts after the convolutions of ResNet20, and after the widest of ResNet18."""
    widths = [name for name in sm90.WIDTHS | sm90.WIDEST if name != "3-16"]
    check(*(f"normalizations {dot} {channels}" for channels in widths))


@pytest.mark.slow
@pytest.mark.parametrize("dot", sm90.PRECISIONS)
def test_heads_compile_for_an_h100(dot: str) -> None:
    """Pooling, the linear layer and the loss of ResNet20 and of ResNet18."""
    check(*(f"heads {dot} {channels}" for channels in ("64-64", "512-512")))


@pytest.mark.slow
def test_weights_and_the_step_compile_for_an_h100() -> None:
    """Rows of 144 to 4,608 weights."""
    check(*(f"rows ieee {channels}" for channels in ("16-16", "64-64", "512-512")))
