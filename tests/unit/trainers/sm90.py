"""Compile the kernels of lanes for sm_90 without a GPU, and measure the code.

The functions of `trainers.kernels` are called on tensors without data. Each launch is recorded
instead of run, so that the compiled code is that of a real launch. This needs a process in which
the kernels are not interpreted. `python -m tests.unit.trainers.sm90 usage CASE...` prints JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
"""The folder of ptxas and cuobjdump, which triton ships."""

TYPES = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int64: "i64",
    torch.bool: "i1",
}
"""Triton's names of the types of numbers."""

PRECISIONS = {"bf16": torch.bfloat16, "ieee": torch.float32, "tf32x3": torch.float32}
"""The type of the activations, by the precision of products."""

WIDTHS = {"3-16": (3, 16, 32), "16-16": (16, 16, 32), "32-32": (32, 32, 16), "64-64": (64, 64, 8)}
"""The convolutions of ResNet20: channels before, channels after, and side of the image."""

WIDEST = {"512-512": (512, 512, 8)}
"""The widest convolution of ResNet18 on Tiny-ImageNet."""

IMAGES = 20


class Usage(NamedTuple):
    """Registers and memory of the compiled code of a kernel."""

    case: str
    kernel: str
    registers: int
    """Registers per thread."""
    spills: int
    """Bytes per thread of registers that are kept in memory."""
    shared: int
    """Bytes of shared memory per block."""


class Launch(NamedTuple):
    """The arguments that decide the compiled code of a kernel."""

    kernel: Any
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    """Indexes of the arguments that are divisible by 16."""
    options: tuple[tuple[str, Any], ...]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Record the launches of kernels instead of running them."""
    launches: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        assert not warmup
        launches.append(_launch(kernel, args, options))

    run = JITFunction.run
    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run


def _launch(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    types, constants, aligned = [], [], []
    for parameter, value in zip(kernel.params, args, strict=True):
        special = not parameter.do_not_specialize
        kind = "constexpr" if parameter.is_constexpr else _type(value, special=special)
        types.append((parameter.name, kind))
        if kind == "constexpr":
            constants.append((parameter.name, value))
        elif special and not parameter.do_not_specialize_on_alignment and _is_aligned(value):
            aligned.append(parameter.num)
    return Launch(
        kernel, tuple(types), tuple(constants), tuple(aligned), tuple(sorted(options.items()))
    )


def _type(value: Tensor | float, *, special: bool) -> str:
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "constexpr" if value == 1 and special else "i32"


def _is_aligned(value: Tensor | float) -> bool:
    """Return whether Triton may count on 16 bytes, or on a multiple of 16."""
    if isinstance(value, Tensor):
        return value.storage_offset() * value.element_size() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


@cache
def compiled(launch: Launch) -> tuple[int, int, int]:
    """Return the registers, the spilled bytes and the shared memory of a launch."""
    source = ASTSource(
        launch.kernel,
        dict(launch.types),
        dict(launch.constants),
        {(index,): [["tt.divisibility", 16]] for index in launch.aligned},
    )
    binary = triton.compile(source, target=TARGET, options=dict(launch.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [BINARIES / "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True)
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text.stdout + text.stderr))
    spills = int(usage["STACK"]) + int(usage["LOCAL"])
    return int(usage["REG"]), spills, binary.metadata.shared


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _windows(lanes: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return windows of a matrix whose rows have a length that is not divisible by 16."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    rows = _empty(lanes, sum(sizes) + 10)
    parts = rows[:, :-10].split(sizes, dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def convolutions(dot: str, lanes: int, before: int, after: int, side: int) -> None:
    """Convolve forward and backward, with strides of 1 and 2."""
    from trainers import kernels

    dtype = PRECISIONS[dot]
    x = _empty(lanes, IMAGES, side, side, before, dtype=dtype)
    (w,) = _windows(lanes, (after, 3, 3, before))
    for stride in (1, 2):
        y = kernels.conv(x, w, stride, 1, dot=dot)
        kernels.conv_input_gradient(y, w, stride, 1, (side, side), dot=dot)
        kernels.conv_weight_gradient(x, y, 3, stride, 1, dot=dot)


def normalizations(dot: str, lanes: int, before: int, after: int, side: int) -> None:
    """Apply BN, GN and shifts to the output of a convolution, forward and backward."""
    from trainers import kernels

    dtype = PRECISIONS[dot]
    x = _empty(lanes, IMAGES, side * side, after, dtype=dtype)
    rows = x.flatten(1, 2)
    gamma, beta, mean, var = _windows(lanes, *[(after,)] * 4)
    active = _empty(lanes, dtype=torch.bool)
    for frozen in (False, True):
        z, saved = kernels.normalize(
            rows, gamma, beta, mean, var, active, rows,
            frozen=frozen, relu=True, momentum=0.1, eps=1e-5,
        )  # fmt: skip
        kernels.normalize_backward(
            rows, z, z, saved, gamma, frozen=frozen, shortcut=True, relu=True
        )
    z, saved = kernels.group_normalize(x, gamma, beta, x, groups=2, relu=True, eps=1e-5)
    kernels.group_normalize_backward(x, z, z, saved, gamma, groups=2, shortcut=True, relu=True)
    kernels.shift_backward(kernels.shift(rows, beta, rows, relu=True), rows, relu=True)


def heads(dot: str, lanes: int, before: int, after: int, side: int) -> None:
    """Pool, multiply by the last weight, and compute the loss of 10 and of 200 classes."""
    from trainers import kernels

    dtype = PRECISIONS[dot]
    x = _empty(lanes, IMAGES, side, side, after, dtype=dtype)
    kernels.max_pool2_backward(x, kernels.max_pool2(x), x)
    pooled = kernels.mean_pool(x.flatten(2, 3))
    labels = _empty(lanes, IMAGES, dtype=torch.int64)
    for classes in (10, 200):
        w, bias = _windows(lanes, (classes, after), (classes,))
        logits = kernels.linear(pooled, w, bias, dot=dot)
        _, slopes = kernels.cross_entropy(logits, labels)
        kernels.linear_backward(pooled, w, slopes.to(dtype), dot=dot)


def rows(dot: str, lanes: int, before: int, after: int, side: int) -> None:
    """Compute weights from rows, and take the step of all lanes."""
    from trainers import kernels

    w, gain = _windows(lanes, (after, 9 * before), (after,))
    dy = _empty(lanes, after, 9 * before)
    kernels.standardize(w, gain)
    kernels.standardize_backward(w, gain, dy)
    kernels.weight_norm(w, gain)
    kernels.weight_norm_backward(w, gain, dy)
    kernels.clip_rows(w, w, 0.1)
    values, gradient, velocity = (_empty(lanes, after * before * 9 * 20 + 10) for _ in range(3))
    kernels.clip(gradient, 10.0)
    kernels.descend(
        values, gradient, velocity, _empty(lanes, dtype=torch.bool), _empty(1),
        decay=1e-4, decayed=1000, momentum=0.9, trained=2000,
    )  # fmt: skip


FAMILIES: dict[str, Callable[[str, int, int, int, int], None]] = {
    "convolutions": convolutions,
    "normalizations": normalizations,
    "heads": heads,
    "rows": rows,
}


def measured(case: str) -> Iterator[Usage]:
    """Compile the kernels of a case, "FAMILY PRECISION CHANNELS"."""
    family, dot, channels = case.split()
    with recorded() as launches:
        FAMILIES[family](dot, 10, *(WIDTHS | WIDEST)[channels])
    for launch in dict.fromkeys(launches):
        yield Usage(case, _label(launch), *compiled(launch))


def _label(launch: Launch) -> str:
    """Return the kernel's name and its options that are true."""
    options = [name for name, value in launch.constants if value is True]
    strides = [f"stride {value}" for name, value in launch.constants if name == "stride"]
    return " ".join([str(launch.kernel.__name__).lstrip("_"), *options, *strides])


def dependent(case: str) -> Iterator[str]:
    """Yield the kernels whose compiled code is another one for one lane than for ten."""
    family, dot, channels = case.split()
    launched = []
    for lanes in (1, 10):
        with recorded() as launches:
            FAMILIES[family](dot, lanes, *(WIDTHS | WIDEST)[channels])
        launched.append(launches)
    for one, ten in zip(*launched, strict=True):
        if one != ten:
            yield str(one.kernel.__name__).lstrip("_")


QUESTIONS: dict[str, Callable[[str], Iterator[Any]]] = {"usage": measured, "lanes": dependent}


def answers(question: str, cases: list[str]) -> list[Any]:
    """Ask about some cases in a process that does not interpret the kernels."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.unit.trainers.sm90", question, *cases]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return list(json.loads(process.stdout))


if __name__ == "__main__":
    ask = QUESTIONS[sys.argv[1]]
    print(json.dumps([answer for case in sys.argv[2:] for answer in ask(case)]))
