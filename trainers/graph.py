"""CUDA graphs: the operations of a function, recorded once and launched together from then on.

A graph repeats the recorded operations on the recorded addresses. It does not run Python again. So
a function that is captured reads and writes tensors that stay, never waits for the device, and
passes no number to an operation that changes between two calls.

A trial has one stream and one memory pool. Its graphs never run at the same time, so they can share
memory. Graphs of one stream share cuBLAS workspaces, so they are destroyed together. A process
captures one graph at a time, and replays none meanwhile.

`replay` copies the seed of torch's generator to the device, so `torch.manual_seed` before a call
gives the dropout mask of a plain call. All graphs of a process share this copy. Two trials with
dropout must not train at the same time in one process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

WARM_UPS = 3
"""Plain calls of a function before its capture. Libraries choose their kernels and allocate their
workspaces in them, which a capture must not do."""

LOCK = threading.Lock()
"""Held by the thread that captures, replays or destroys a graph."""


class Graph(Protocol):
    """A `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Launch the recorded operations on the current stream."""
        ...

    def reset(self) -> None:
        """Destroy the recorded operations."""
        ...


class Device(Protocol):
    """The functions of `torch.cuda` that graphs need. Tests replace them."""

    def stream(self) -> Any:
        """Return a new stream."""
        ...

    def pool(self) -> Any:
        """Return a handle of a new memory pool."""
        ...

    def use(self, stream: Any) -> AbstractContextManager[None]:
        """Make a stream the current one. It waits for the stream before it, which waits for it at
        the end.
        """
        ...

    def graph(self) -> Graph:
        """Return an empty graph."""
        ...

    def capture(self, graph: Graph, stream: Any, pool: Any) -> AbstractContextManager[None]:
        """Record the operations of the context in a graph, without running them.

        Raises:
            RuntimeError: an operation cannot be captured.

        """
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream has no work left."""
        ...


class Cuda:
    """A CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stream(self) -> torch.cuda.Stream:
        """Return a new stream."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # untyped

    def pool(self) -> Any:
        """Return a handle of a new memory pool."""
        return torch.cuda.graph_pool_handle()

    @contextmanager
    def use(self, stream: torch.cuda.Stream) -> Iterator[None]:
        """Make a stream the current one, in order with the stream before it."""
        outer = torch.cuda.current_stream(self.device)
        stream.wait_stream(outer)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            outer.wait_stream(stream)

    def graph(self) -> Graph:
        """Return an empty graph."""
        return torch.cuda.CUDAGraph()

    def capture(
        self, graph: Graph, stream: torch.cuda.Stream, pool: Any
    ) -> AbstractContextManager[None]:
        """Record the operations of the context. Other threads may go on launching theirs."""
        assert isinstance(graph, torch.cuda.CUDAGraph)
        return torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local")

    def synchronize(self, stream: torch.cuda.Stream) -> None:
        """Wait until a stream has no work left."""
        stream.synchronize()


class Graphs:
    """The graphs of one trial, with their stream and memory pool."""

    def __init__(self, device: Device, *, capture: bool = True) -> None:
        self.device = device
        self.stream = device.stream()
        self.pool = device.pool()
        self.captures = capture
        """False if each operation is launched separately."""
        self._graphs: list[Graph] = []
        self._in_use = False

    @contextmanager
    def use_stream(self) -> Iterator[None]:
        """Make the trial's stream the current one, unless it is so already."""
        if self._in_use:
            yield
            return
        self._in_use = True
        try:
            with self.device.use(self.stream):
                yield
        finally:
            self._in_use = False

    def capture(self, function: Callable[[], None]) -> Graph | None:
        """Return a graph of a function. Return None, with one warning a trial, if that fails."""
        graph = self.device.graph()
        self._graphs.append(graph)
        try:
            with LOCK, self.device.capture(graph, self.stream, self.pool):
                function()
        except RuntimeError as error:
            self.captures = False
            reason = str(error).partition("\n")[0]
            log.warning("no CUDA graph: %s; each operation is launched separately", reason)
            return None
        return graph

    def close(self) -> None:
        """Destroy all graphs of the trial. Functions are called plainly afterwards."""
        self.captures = False
        if self._graphs:
            self.device.synchronize(self.stream)
        with LOCK:
            for graph in self._graphs:
                graph.reset()
        self._graphs.clear()


class Replay:
    """A function without arguments and result, launched as a CUDA graph after a few plain calls.

    Every call has the effect of the plain call. Without `graphs`, every call is a plain one.
    """

    def __init__(self, function: Callable[[], None], graphs: Graphs | None) -> None:
        self.function = function
        self.graphs = graphs
        self.calls = 0
        self._graph: Graph | None = None

    def __call__(self) -> None:
        """Call the function, or launch its operations."""
        if self.graphs is None:
            self.function()
            return
        with self.graphs.use_stream():
            if self._graph is None and self.calls >= WARM_UPS and self.graphs.captures:
                self._graph = self.graphs.capture(self.function)
            self.calls += 1
            if self._graph is None or not self.graphs.captures:
                self.function()
                return
            with LOCK:
                self._graph.replay()


def graphs_of(device: torch.device) -> Graphs | None:
    """Return the graphs of a new trial on this device. Return None for a CPU."""
    return Graphs(Cuda(device)) if device.type == "cuda" else None
