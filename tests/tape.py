"""A tape of torch's operations, which shows on a CPU what a CUDA graph could not repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = frozenset({
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "bincount", "unique_dim",
    "unique_consecutive", "_unique", "_unique2", "is_nonzero", "equal", "repeat_interleave",
    "lift_fresh", "lift_fresh_copy", "histc",
})  # fmt: skip
"""Operations that read a tensor on the host, or make one from a number of the host."""

METHODS = frozenset({
    "cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__",
    "__contains__", "__array__", "nonzero", "unique",
})  # fmt: skip
"""Methods of a tensor that read it on the host. A CPU does most of them without an operation."""

VIEWS = frozenset({
    "view", "_unsafe_view", "permute", "transpose", "t", "slice", "select", "expand", "unsqueeze",
    "squeeze", "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind", "chunk",
    "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
})  # fmt: skip
"""Operations that launch no kernel."""


class Tape:
    """The operations that run in a `with` block, their numbers, and the waits among them."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, str]] = []
        """The name of each operation, and everything in its arguments that is not a tensor."""
        self.waits: list[str] = []
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(_Methods(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    @property
    def kernels(self) -> Counter[str]:
        """The number of operations of each name that launch a kernel."""
        return Counter(name for name, _ in self.operations if name not in VIEWS)

    @property
    def views(self) -> int:
        """The number of operations that launch no kernel."""
        return sum(name in VIEWS for name, _ in self.operations)


class _Methods(TorchFunctionMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        # A device that is not spelled out may be the tensor's own.
        to_host = name == "to" and "cpu" in [
            a for a in (*args, *(kwargs or {}).values()) if isinstance(a, str)
        ]
        if to_host or (name in METHODS and isinstance(args[0], Tensor)):
            self.tape.waits.append(name)
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.partition("::")[2]
        leaves = _pytree.tree_leaves((args, kwargs or {}))
        masks = [t for t in leaves[1:] if isinstance(t, Tensor) and t.dtype == torch.bool]
        if name in WAITS or (masks and name.startswith(("index", "_index_put"))):
            self.tape.waits.append(name)
        numbers = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        self.tape.operations.append((name, str(numbers)))
        return function(*args, **(kwargs or {}))
