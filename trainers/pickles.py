"""Pickles of lists and arrays of bytes, read as data.

A pickle names functions that the reader calls. A pickle from another person can therefore run any
program. Here the names are ignored, except the few by which NumPy stores an array.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NotPlain(ValueError):
    """The content is no pickle of lists and arrays of bytes."""


def load(content: bytes) -> Any:
    """Return the lists, dictionaries, texts, numbers and arrays of uint8 that a pickle holds.

    Raises:
        NotPlain: it holds anything else, or is damaged.

    """
    try:
        return _resolved(_Reader(io.BytesIO(content), encoding="latin1").load(), depth=3)
    except NotPlain:
        raise
    except Exception as error:  # damage has many faces
        raise NotPlain(f"it is no sound pickle ({str(error) or type(error).__name__})") from error


class _Array:
    """An array as the pickle describes it. The arguments are not looked at before the end."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """Return the array, of bytes in C order."""
        try:
            _, shape, dtype, fortran, values = self.state
        except ValueError as error:
            raise NotPlain("it holds an array without content") from error
        values = values.encode("latin1") if isinstance(values, str) else values
        if not (isinstance(dtype, _Dtype) and dtype.name == "u1" and not fortran):
            raise NotPlain("it holds an array that is not of bytes")
        if not (isinstance(values, bytes) and isinstance(shape, tuple)):
            raise NotPlain("it holds an array without content")
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise NotPlain("it holds an array without content")
        if math.prod(shape) != len(values):
            raise NotPlain("it holds an array of another size than it says")
        return np.frombuffer(values, dtype=np.uint8).reshape(shape)


class _Dtype:
    """The type of an array's values, of which only the name counts."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        pass


def _from_buffer(values: object, dtype: object, shape: object, order: object) -> _Array:
    """Return an array of the pickles that Python 3.14 writes."""
    array = _Array()
    values = bytes(values) if isinstance(values, bytearray) else values
    array.state = (1, shape, dtype, order != "C", values)
    return array


def _encoded(text: object, encoding: object) -> bytes:
    """Return the bytes that the pickles of Python 2 hold as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise NotPlain("it holds text in another encoding")
    return text.encode("latin1")


_NAMES: Mapping[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
"""Stand-ins for the names by which NumPy and Python store an array of bytes."""


class _Reader(pickle._Unpickler):  # noqa: SLF001  # the one in C takes memory by a number in the file
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _NAMES:
            raise NotPlain(f"it names {module}.{name}, which is not called")
        return _NAMES[module, name]

    def get_extension(self, code: int) -> None:
        raise NotPlain(f"it names the extension {code}, which is not called")

    def persistent_load(self, pid: object) -> Any:
        raise NotPlain(f"it names {str(pid)[:40]!r}, an object that is stored elsewhere")


def _resolved(value: Any, *, depth: int) -> Any:
    """Return a value with its arrays made, which are no deeper than so many containers."""
    if isinstance(value, _Array):
        return value.array()
    if isinstance(value, dict) and depth:
        return {key: _resolved(item, depth=depth - 1) for key, item in value.items()}
    return value
