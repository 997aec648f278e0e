"""Kernels of lanes: right against their twin in plain torch, and a lane never sees another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.triton_interpreter import DEVICE, INTERPRETED, kernels
from tests.unit.trainers import plain_kernels
from trainers.kernels import convolution, head, normalization, rows, tiles

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about NaN

LANES = 7

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
"""The largest relative error of a lane's result, by its type.

bfloat16 is rounded once. Triton's interpreter rounds it towards zero.
"""

Arguments = dict[str, Tensor | None]
Results = dict[str, Tensor]

WINDOWS = (
    "w", "gain", "gamma", "beta", "bias", "running_mean", "running_var", "gradient", "values",
    "velocity", "labels",
)  # fmt: skip
"""The arguments that may be windows of a larger matrix."""


class Case(NamedTuple):
    """A function of kernels, and the arguments of some lanes."""

    name: str
    call: Callable[..., Results]
    """A function of kernels and of the arguments. It changes some arguments in place."""
    make: Callable[[torch.dtype], Arguments]
    """A function that makes the arguments of `LANES` lanes, with activations of a type."""

    def __repr__(self) -> str:
        return self.name


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(LANES, *shape).to(dtype)


ACTIVE = torch.tensor([True, True, False, True, False, True, True])


def conv(
    ci: int, co: int, taps: int, stride: int, size: tuple[int, int], pad: int | None = None
) -> Case:
    margin = taps // 2 if pad is None else pad
    out = [(side + 2 * margin - taps) // stride + 1 for side in size]

    def make(dtype: torch.dtype) -> Arguments:
        return {
            "x": random(2, *size, ci, dtype=dtype),
            "w": random(co, taps, taps, ci).to(dtype).float(),
            "dy": random(2, *out, co, dtype=dtype),
        }

    def call(k: Any, x: Tensor, w: Tensor, dy: Tensor) -> Results:
        return {
            "y": k.conv(x, w, stride, margin, dot="ieee"),
            "dx": k.conv_input_gradient(dy, w, stride, margin, size, dot="ieee"),
            "dw": k.conv_weight_gradient(x, dy, taps, stride, margin, dot="ieee"),
        }

    return Case(f"conv {ci}-{co} {taps}x{taps} stride {stride} pad {margin}", call, make)


def batch_norm(channels: int, size: int, *, frozen: bool, shortcut: bool, relu: bool) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {
            "x": (random(size, channels) * 2 + 3).to(dtype),
            "gamma": random(channels),
            "beta": random(channels),
            "running_mean": random(channels),
            "running_var": random(channels).abs() + 0.1,
            "active": ACTIVE,
            "shortcut": random(size, channels, dtype=dtype) if shortcut else None,
            "dz": random(size, channels, dtype=dtype),
        }

    def call(
        k: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        active: Tensor,
        shortcut: Tensor | None,
        dz: Tensor,
    ) -> Results:
        z, saved = k.normalize(
            x, gamma, beta, running_mean, running_var, active, shortcut,
            frozen=frozen, relu=relu, momentum=0.1, eps=1e-5,
        )  # fmt: skip
        dx, dshortcut, dgamma, dbeta = k.normalize_backward(
            x, z, dz, saved, gamma, frozen=frozen, shortcut=shortcut is not None, relu=relu
        )
        assert (dshortcut is None) == (shortcut is None)
        results = {"z": z, "saved": saved, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
        return results if dshortcut is None else {**results, "dshortcut": dshortcut}

    options = {"frozen": frozen, "shortcut": shortcut, "relu": relu}
    return Case(f"batch norm {channels} {_chosen(options)}", call, make)


def group_norm(channels: int, groups: int, size: int, *, shortcut: bool, relu: bool) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {
            "x": (random(2, size, channels) * 2 + 3).to(dtype),
            "gamma": random(channels),
            "beta": random(channels),
            "shortcut": random(2, size, channels, dtype=dtype) if shortcut else None,
            "dz": random(2, size, channels, dtype=dtype),
        }

    def call(
        k: Any, x: Tensor, gamma: Tensor, beta: Tensor, shortcut: Tensor | None, dz: Tensor
    ) -> Results:
        z, saved = k.group_normalize(x, gamma, beta, shortcut, groups=groups, relu=relu, eps=1e-5)
        dx, dshortcut, dgamma, dbeta = k.group_normalize_backward(
            x, z, dz, saved, gamma, groups=groups, shortcut=shortcut is not None, relu=relu
        )
        assert (dshortcut is None) == (shortcut is None)
        results = {"z": z, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
        return results if dshortcut is None else {**results, "dshortcut": dshortcut}

    options = {"shortcut": shortcut, "relu": relu}
    return Case(f"group norm {channels} in {groups} {_chosen(options)}", call, make)


def shift(channels: int, size: int, *, shortcut: bool, relu: bool) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {
            "x": random(size, channels, dtype=dtype),
            "beta": random(channels),
            "shortcut": random(size, channels, dtype=dtype) if shortcut else None,
            "dz": random(size, channels, dtype=dtype),
        }

    def call(k: Any, x: Tensor, beta: Tensor, shortcut: Tensor | None, dz: Tensor) -> Results:
        z = k.shift(x, beta, shortcut, relu=relu)
        dx, dbeta = k.shift_backward(z, dz, relu=relu)
        return {"z": z, "dx": dx, "dbeta": dbeta}

    return Case(f"shift {channels} {_chosen({'shortcut': shortcut, 'relu': relu})}", call, make)


def _chosen(options: dict[str, bool]) -> str:
    return " ".join(name for name, chosen in options.items() if chosen) or "plain"


def weight_rows(name: str, length: int) -> Case:
    """Compute weights from rows. The deviation of the first row to standardize is too small."""

    def make(dtype: torch.dtype) -> Arguments:
        w = random(3, length)
        if name == "standardize":
            w[:, 0] *= 1e-4
        return {"w": w, "gain": random(3), "dy": random(3, length)}

    def call(k: Any, w: Tensor, gain: Tensor, dy: Tensor) -> Results:
        dw, dgain = getattr(k, f"{name}_backward")(w, gain, dy)
        return {"y": getattr(k, name)(w, gain), "dw": dw, "dgain": dgain}

    return Case(f"{name} {length}", call, make)


def clip_rows(bound: float) -> Case:
    """Clip rows, of which one is shorter than the least weight, and one has a gradient of zero."""

    def make(dtype: torch.dtype) -> Arguments:
        w, gradient = random(3, 45), random(3, 45)
        w[:, 0] *= 1e-6
        gradient[:, 1] = 0
        return {"w": w, "gradient": gradient}

    def call(k: Any, w: Tensor, gradient: Tensor) -> Results:
        k.clip_rows(w, gradient, bound)
        return {}

    return Case(f"clip rows at {bound}", call, make)


def clip(bound: float) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {"gradient": random(1000)}

    def call(k: Any, gradient: Tensor) -> Results:
        k.clip(gradient, bound)
        return {}

    return Case(f"clip at {bound}", call, make)


def descend(*, velocity: bool, decay: float, tensor: bool) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {
            "values": random(1100),
            "gradient": random(1000),
            "velocity": random(1000) if velocity else None,
            "active": ACTIVE,
        }

    def call(
        k: Any, values: Tensor, gradient: Tensor, velocity: Tensor | None, active: Tensor
    ) -> Results:
        lr = values.new_tensor(0.1) if tensor else 0.1
        # The twin adds the decay to the gradient in place; nobody reads it afterwards.
        k.descend(
            values, gradient.clone(), velocity, active, lr,
            decay=decay, decayed=700, momentum=0.9, trained=900,
        )  # fmt: skip
        return {}

    options = {"velocity": velocity, "decay": decay > 0, "tensor": tensor}
    return Case(f"descend {_chosen(options)}", call, make)


def mean_pool(channels: int, size: int) -> Case:
    return Case(
        f"mean pool {channels}",
        lambda k, x: {"y": k.mean_pool(x)},
        lambda dtype: {"x": random(2, size, channels, dtype=dtype)},
    )


def max_pool(channels: int, size: tuple[int, int]) -> Case:
    """Pool small integers, so that many pixels of a square are equal."""
    out = size[0] // 2, size[1] // 2

    def make(dtype: torch.dtype) -> Arguments:
        x = torch.randint(-1, 2, (LANES, 2, *size, channels)).to(dtype)
        return {"x": x, "dz": random(2, *out, channels, dtype=dtype)}

    def call(k: Any, x: Tensor, dz: Tensor) -> Results:
        z = k.max_pool2(x)
        return {"z": z, "dx": k.max_pool2_backward(x, z, dz)}

    return Case(f"max pool {channels} of {size[0]}x{size[1]}", call, make)


def linear(inputs: int, outputs: int, images: int, *, bias: bool) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        return {
            "x": random(images, inputs, dtype=dtype),
            "w": random(outputs, inputs),
            "bias": random(outputs) if bias else None,
            "dy": random(images, outputs, dtype=dtype),
        }

    def call(k: Any, x: Tensor, w: Tensor, bias: Tensor | None, dy: Tensor) -> Results:
        dx, dw, db = k.linear_backward(x, w, dy, dot="ieee")
        return {"y": k.linear(x, w, bias, dot="ieee"), "dx": dx, "dw": dw, "db": db}

    return Case(f"linear {inputs}-{outputs} {_chosen({'bias': bias})}", call, make)


def cross_entropy(classes: int, images: int) -> Case:
    def make(dtype: torch.dtype) -> Arguments:
        labels = torch.randint(0, classes, (LANES, images))
        return {"logits": (random(images, classes) * 9).to(dtype), "labels": labels}

    def call(k: Any, logits: Tensor, labels: Tensor) -> Results:
        losses, slopes = k.cross_entropy(logits, labels)
        return {"losses": losses, "slopes": slopes}

    return Case(f"cross entropy of {classes}", call, make)


FLAGS = (False, True)
ACTIVATIONS = [
    batch_norm(24, 100, frozen=False, shortcut=True, relu=True),
    batch_norm(24, 100, frozen=True, shortcut=True, relu=True),
    group_norm(6, 3, 40, shortcut=True, relu=True),
    shift(24, 50, shortcut=True, relu=True),
    mean_pool(5, 49),
    max_pool(3, (5, 6)),
    linear(40, 10, 20, bias=True),
    cross_entropy(10, 20),
]
"""Functions of activations, which have float32 or bfloat16."""

CONVOLUTIONS = [
    conv(3, 5, 3, 1, (7, 6)),
    conv(5, 9, 3, 2, (7, 5)),
]

WEIGHTS = [
    weight_rows("standardize", 45),
    weight_rows("weight_norm", 45),
    clip_rows(0.01),
    clip_rows(100.0),
    clip(0.1),
    clip(1000.0),
    descend(velocity=True, decay=0.01, tensor=True),
    descend(velocity=False, decay=0.0, tensor=False),
]
"""Functions of parameters, which have float32."""

MORE = [
    conv(5, 24, 3, 2, (7, 9)),
    conv(24, 70, 3, 1, (5, 5)),
    conv(5, 7, 1, 2, (7, 6)),
    conv(3, 5, 7, 2, (11, 9)),
    conv(3, 5, 3, 1, (6, 6), pad=0),
    *(
        batch_norm(24, 350, frozen=frozen, shortcut=shortcut, relu=relu)
        for frozen, shortcut, relu in product(FLAGS, FLAGS, FLAGS)
    ),
    batch_norm(5, 1, frozen=True, shortcut=True, relu=True),
    *(group_norm(24, 3, 50, shortcut=s, relu=relu) for s, relu in product(FLAGS, FLAGS)),
    group_norm(6, 6, 20, shortcut=False, relu=True),
    group_norm(5, 1, 7, shortcut=False, relu=False),
    batch_norm(3, 17, frozen=False, shortcut=False, relu=False),
    *(shift(24, 350, shortcut=s, relu=relu) for s, relu in product(FLAGS, FLAGS)),
    mean_pool(24, 1),
    max_pool(5, (7, 9)),
    linear(70, 67, 3, bias=False),
    cross_entropy(3, 5),
    *(
        descend(velocity=velocity, decay=decay, tensor=tensor)
        for velocity, decay, tensor in product(FLAGS, (0.0, 0.01), FLAGS)
    ),
]
"""Further options and sizes, which are slow."""


def parameters(quick: Sequence[Case]) -> Any:
    """Test some cases, and the others if slow tests run."""
    slow = (pytest.param(case, marks=pytest.mark.slow) for case in MORE)
    return pytest.mark.parametrize("case", [*quick, *slow], ids=repr)


all_cases = parameters(ACTIVATIONS + CONVOLUTIONS + WEIGHTS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[pytest.param("usual tiles", marks=pytest.mark.slow), "small tiles"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also use tiles so small that a lane has many tiles, parts and shares."""
    if request.param == "small tiles":
        monkeypatch.setattr(convolution, "PIXELS", 32)
        monkeypatch.setattr(convolution, "SHARE", 20)
        monkeypatch.setattr(convolution, "MOST_SHARES", 3)
        monkeypatch.setattr(normalization, "ELEMENTS", 16)
        monkeypatch.setattr(normalization, "MOST_PARTS", 3)
        monkeypatch.setattr(head, "ELEMENTS", 16)
        monkeypatch.setattr(rows, "TILE", 256)
    return str(request.param)


def chosen_lanes(arguments: Arguments, lanes: Sequence[int]) -> Arguments:
    """Return copies of some lanes of the arguments, with parameters as windows of a matrix."""
    copies = {n: t if t is None else t[list(lanes)].to(DEVICE) for n, t in arguments.items()}
    return {n: windowed(t) if t is not None and n in WINDOWS else t for n, t in copies.items()}


def windowed(tensor: Tensor) -> Tensor:
    """Return a window with these numbers of a matrix that has NaN, or a wrong label, around it."""
    size = tensor[0].numel()
    outside = float("nan") if tensor.is_floating_point() else 99
    matrix = torch.full((len(tensor), size + 37), outside, dtype=tensor.dtype, device=DEVICE)
    window = matrix[:, 16 : 16 + size].unflatten(1, tensor.shape[1:])
    return window.copy_(tensor)


def results_of(case: Case, arguments: Arguments) -> Results:
    """Return the results of a function, and the arguments that it has changed in place."""
    changed = {n: t for n, t in arguments.items() if n in WINDOWS and t is not None}
    return {**case.call(kernels, **arguments), **changed}


def bits(results: Results, lane: int) -> dict[str, bytes]:
    """Return the bits of one lane's results."""
    return {
        name: tensor[lane].contiguous().cpu().view(torch.uint8).numpy().tobytes()
        if tensor[lane].ndim
        else tensor[lane].cpu().reshape(1).view(torch.uint8).numpy().tobytes()
        for name, tensor in results.items()
    }


def check_against_twin(case: Case, dtype: torch.dtype) -> None:
    """Check each result, lane by lane, against the twin in float64."""
    arguments = case.make(dtype)
    doubled = {
        name: tensor.double() if tensor is not None and tensor.is_floating_point() else tensor
        for name, tensor in chosen_lanes(arguments, range(LANES)).items()
    }
    expected = {**doubled, **{n: t.cpu() for n, t in doubled.items() if t is not None}}
    twin = case.call(plain_kernels, **expected)
    twin.update({n: t for n, t in expected.items() if n in WINDOWS and t is not None})
    results = results_of(case, chosen_lanes(arguments, range(LANES)))
    assert results.keys() == twin.keys()
    for name, result in results.items():
        assert result.shape == twin[name].shape, name
        exact = twin[name].double().view(LANES, -1)
        error = (result.cpu().double().view(LANES, -1) - exact).norm(dim=1)
        bound = ROUNDING.get(result.dtype, 0.0) * exact.norm(dim=1)
        assert (error <= bound).all(), (name, (error / bound).max())


@pytest.mark.one_in(2)
@all_cases
def test_a_kernel_in_float32_is_as_exact_as_its_rounding(case: Case, tile: str) -> None:
    """Each function equals its twin in float64, whose inputs are the same."""
    check_against_twin(case, torch.float32)


@pytest.mark.parametrize(
    "case", ACTIVATIONS if INTERPRETED else ACTIVATIONS + CONVOLUTIONS, ids=repr
)
def test_a_kernel_in_bfloat16_rounds_its_result_once(case: Case) -> None:
    """Sums are float32: gradients of parameters are as exact as those of float32 activations.

    Triton's interpreter cannot multiply matrices of bfloat16, so a GPU tests the convolutions.
    """
    check_against_twin(case, torch.bfloat16)


@pytest.mark.one_in(3)
@all_cases
def test_the_bits_of_a_lane_depend_on_its_own_numbers_alone(case: Case, tile: str) -> None:
    """A lane is bitwise the same among 7, alone, and among 3 at any place."""
    arguments = case.make(torch.float32)
    among = results_of(case, chosen_lanes(arguments, range(LANES)))
    for lanes in ((3,), (5, 3, 0)):
        some = results_of(case, chosen_lanes(arguments, lanes))
        for place, lane in enumerate(lanes):
            assert bits(some, place) == bits(among, lane)


@pytest.mark.one_in(2)
@all_cases
def test_a_lane_of_nan_changes_no_other_lane(case: Case) -> None:
    """The other lanes are bitwise the same. The lane itself has no finite result."""
    arguments = case.make(torch.float32)
    expected = results_of(case, chosen_lanes(arguments, (0, 1, 3)))
    for tensor in arguments.values():
        if tensor is not None and tensor.is_floating_point():
            tensor[1] = torch.nan
    results = results_of(case, chosen_lanes(arguments, (0, 1, 3)))
    for place in (0, 2):
        assert bits(results, place) == bits(expected, place)
    for name, result in results.items():
        if name == "dx" and case.name.startswith("max pool"):
            assert result[1].isnan().any(), name  # one pixel of a square has the gradient
        elif result.is_floating_point():
            assert not result[1].isfinite().any(), name


@pytest.mark.one_in(2)
@all_cases
def test_a_kernel_writes_to_its_window_alone(case: Case) -> None:
    """The numbers around a window stay NaN."""
    arguments = chosen_lanes(case.make(torch.float32), range(LANES))
    case.call(kernels, **arguments)
    for name, window in arguments.items():
        if window is not None and name in WINDOWS and window.is_floating_point():
            matrix = window.new_empty(0).set_(window.untyped_storage()).view(LANES, -1)
            assert matrix[:, :16].isnan().all(), name
            assert matrix[:, 16 + window[0].numel() :].isnan().all(), name


@pytest.mark.parametrize("frozen", FLAGS)
def test_running_statistics_change_in_active_lanes_alone(frozen: bool) -> None:
    """Those of other lanes, and of all lanes when frozen, are bitwise unchanged."""
    case = batch_norm(5, 40, frozen=frozen, shortcut=False, relu=True)
    arguments = chosen_lanes(case.make(torch.float32), range(LANES))
    before = {n: t.clone() for n, t in arguments.items() if n in ("running_mean", "running_var")}
    case.call(kernels, **arguments)
    for name, old in before.items():
        changed = (arguments[name] != old).any(1).cpu()
        assert changed.tolist() == (ACTIVE & (not frozen)).tolist()


def test_a_step_changes_active_lanes_and_trained_columns_alone() -> None:
    """A gradient of NaN changes neither values nor velocity of a lane that is not active."""
    case = descend(velocity=True, decay=0.01, tensor=True)
    arguments = case.make(torch.float32)
    arguments["gradient"][~ACTIVE] = torch.nan
    before = {name: arguments[name].to(DEVICE) for name in ("values", "velocity")}
    arguments = chosen_lanes(arguments, range(LANES))
    case.call(kernels, **arguments)
    for name, old in before.items():
        assert (arguments[name] != old)[ACTIVE, :900].all()
        assert torch.equal(arguments[name][~ACTIVE], old[~ACTIVE])
        assert torch.equal(arguments[name][:, 900:], old[:, 900:])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_relu_treats_special_numbers_as_torch_does(value: float) -> None:
    """NaN stays NaN and its gradient passes, as in torch."""
    x = torch.tensor([[[value], [1.0], [-1.0], [0.0]]], device=DEVICE)
    dz = torch.full_like(x, 3.0)
    leaf = x.clone().requires_grad_()
    y = leaf.relu()
    y.backward(dz)
    z = kernels.shift(x, x.new_zeros(1, 1), None, relu=True)
    dx, _ = kernels.shift_backward(z, dz, relu=True)
    assert torch.equal(z.nan_to_num(7.0), y.detach().nan_to_num(7.0))
    assert torch.equal(dx, leaf.grad)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_max_pooling_treats_special_numbers_as_torch_does(value: float, place: int) -> None:
    """A square with NaN has the maximum NaN, at any place in the square."""
    x = torch.arange(4.0, device=DEVICE)
    x[place] = value
    x = x.view(1, 1, 2, 2, 1)
    dz = torch.full((1, 1, 1, 1, 1), 3.0, device=DEVICE)
    z = kernels.max_pool2(x)
    assert torch.equal(z.nan_to_num(7.0), plain_kernels.max_pool2(x).nan_to_num(7.0))
    dx = kernels.max_pool2_backward(x, z, dz)
    assert torch.equal(dx, plain_kernels.max_pool2_backward(x, z, dz))


@pytest.mark.parametrize(
    "case", [max_pool(3, (7, 9)), max_pool(24, (8, 6)), max_pool(5, (20, 22))], ids=repr
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_pooling_is_exact(case: Case, dtype: torch.dtype) -> None:
    """The first of equal pixels gets the gradient, and pixels outside of squares get zero."""
    arguments = chosen_lanes(case.make(dtype), range(LANES))
    expected = case.call(plain_kernels, **arguments)
    for name, result in case.call(kernels, **arguments).items():
        assert torch.equal(result, expected[name]), name


def test_clipping_leaves_short_gradients_unchanged() -> None:
    """A row that is not longer than the bound keeps its bits. NaN in a row stays NaN."""
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [torch.nan, 1.0]], device=DEVICE)
    kernels.clip(gradient, 1.0)
    assert gradient[0].cpu().tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
    assert torch.equal(gradient[1].cpu(), torch.tensor([0.3, 0.4]))
    assert gradient[2].isnan().all()


@pytest.mark.parametrize("dot", ["ieee", "tf32x3", "bf16"])
def test_every_precision_has_kernels(dot: str) -> None:
    """The interpreter multiplies in float32 for each."""
    x, w = torch.ones(1, 1, 4, 4, 3, device=DEVICE), torch.ones(1, 5, 3, 3, 3, device=DEVICE)
    assert kernels.conv(x, w, 1, 1, dot=dot)[0, 0, 1, 1].tolist() == [27.0] * 5


def test_an_unknown_precision_is_refused() -> None:
    """The message lists the known ones."""
    x = torch.ones(1, 1, 4, 4, 3)
    with pytest.raises(ValueError, match=r"fp8 is none of ieee, tf32x3, bf16"):
        kernels.conv(x, torch.ones(1, 5, 3, 3, 3), 1, 1, dot="fp8")


def test_batch_norm_of_one_value_is_refused_in_training() -> None:
    """Its variance has no unbiased estimate. Torch refuses it, too."""
    case = batch_norm(5, 1, frozen=False, shortcut=False, relu=True)
    with pytest.raises(ValueError, match="needs two values or more per channel"):
        case.call(kernels, **chosen_lanes(case.make(torch.float32), range(LANES)))


def test_a_lane_with_too_many_numbers_is_refused() -> None:
    """Places within a lane are 32-bit numbers. The tensors here have no memory."""
    x = torch.empty(1, 2**20, 32, 32, 3, device="meta")
    w = torch.empty(1, 5, 3, 3, 3, device="meta")
    gamma = torch.empty(1, 3, device="meta")
    for call in (
        lambda: kernels.conv(x, w, 1, 1, dot="ieee"),
        lambda: kernels.conv_weight_gradient(x, x, 3, 1, 1, dot="ieee"),
        lambda: kernels.shift(x.flatten(1, 3), gamma, None, relu=True),
    ):
        with pytest.raises(ValueError, match="numbers per client are too many"):
            call()
    tiles.check_size(tiles.MOST_ELEMENTS)


@pytest.mark.skipif(not INTERPRETED, reason="needs gigabytes of a GPU's memory")
@pytest.mark.parametrize("case", [conv(3, 5, 3, 1, (6, 6)), *WEIGHTS[:3], clip(0.1)], ids=repr)
def test_lanes_may_be_far_apart(case: Case, tmp_path: Path) -> None:
    """The place of a lane has 64 bits: windows of 2**31 numbers apart, in a sparse file."""
    arguments = chosen_lanes(case.make(torch.float32), (0, 1))
    expected = results_of(case, {n: t if t is None else t.clone() for n, t in arguments.items()})
    for name, tensor in arguments.items():
        if tensor is not None and name in WINDOWS:
            arguments[name] = _far_apart(tensor, tmp_path / name)
    results = results_of(case, arguments)
    for lane in (0, 1):
        assert bits(results, lane) == bits(expected, lane)


def _far_apart(tensor: Tensor, file: Path) -> Tensor:
    size, apart = tensor[0].numel(), 2**31 + 5
    numbers = torch.from_file(str(file), shared=True, size=apart + size, dtype=tensor.dtype)
    window = numbers.as_strided((2, size), (apart, 1)).unflatten(1, tensor.shape[1:])
    return window.copy_(tensor)
