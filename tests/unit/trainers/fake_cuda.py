"""A CUDA device in plain Python: its graphs repeat recorded operations on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tape import WAITS
from trainers import graph


class FakeCuda:
    """A device that notes what is asked of it, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.streams = 0
        self.pools = 0
        self.graphs: list[FakeGraph] = []
        self.current = "default"
        """The current stream."""

    def stream(self) -> str:
        self.streams += 1
        return f"stream {self.streams}"

    def pool(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    @contextmanager
    def use(self, stream: str) -> Iterator[None]:
        outer, self.current = self.current, stream
        yield
        self.current = outer

    def graph(self) -> FakeGraph:
        self.graphs.append(FakeGraph(self, len(self.graphs) + 1))
        return self.graphs[-1]

    @contextmanager
    def capture(self, graph: FakeGraph, stream: str, pool: str) -> Iterator[None]:
        self.note(f"capture {graph.number} on {stream} in {pool}")
        assert self.current == stream
        graph.stream = stream
        recorder = Recorder()
        random = torch.get_rng_state()
        try:
            with recorder:
                yield
        finally:
            recorder.restore()
            torch.set_rng_state(random)
        graph.calls = recorder.calls

    def synchronize(self, stream: str) -> None:
        self.note(f"synchronize {stream}")

    def note(self, event: str) -> None:
        """Note an event, and whether the lock of all graphs is held."""
        self.events.append(event + (", locked" if graph.LOCK.locked() else ""))


class FakeGraph:
    """The operations of a function, which can be repeated."""

    def __init__(self, device: FakeCuda, number: int) -> None:
        self.device = device
        self.number = number
        self.stream = ""
        self.calls: list[tuple[Any, Any, Any, Any]] | None = None

    def replay(self) -> None:
        self.device.note(f"replay {self.number}")
        assert self.calls is not None, "nothing was captured, or it was destroyed"
        assert self.device.current == self.stream
        with torch.no_grad():
            for function, args, kwargs, results in self.calls:
                inputs = {key(t) for t in tensors((args, kwargs))}
                again = function(*args, **kwargs)
                for old, new in zip(tensors(results), tensors(again), strict=True):
                    if key(old) not in inputs:
                        old.copy_(new)

    def reset(self) -> None:
        self.device.note(f"reset {self.number}")
        self.calls = None


class Recorder(TorchDispatchMode):
    """Records operations with their arguments and results, and can undo what they wrote.

    An operation that would wait for a GPU fails, as in a real capture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function._schema.name.partition("::")[2] in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if key(tensor) not in self.before:
                self.before[key(tensor)] = (storage, storage.clone())
        results = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, results))
        return results

    def restore(self) -> None:
        """Undo every write: a capture runs nothing."""
        for storage, content in self.before.values():
            storage.copy_(content)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in nested arguments or results."""
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def key(tensor: Tensor) -> int:
    """Return what two tensors have in common if they share memory."""
    return int(tensor.untyped_storage()._cdata)
