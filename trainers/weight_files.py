"""Files of initial weights: their place, their content hash, and a look at their names.

This file imports no torch, so that planning a sweep stays fast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainers.data.errors import BadData, Missing, refuse_limit, shown

HASH_DIGITS = 32
"""Hexadecimal digits of a content hash, as many as a data set's fingerprint has."""


class WeightsMissing(Missing):
    """The file of initial weights is not here, or another one lies in its place."""


def locate(name: str, root: Path | None) -> Path:
    """Return the path of a file that is named in the data folder, or by its absolute path.

    Raises:
        WeightsMissing: there is no such file.

    """
    path = Path(name)
    if not path.is_absolute():
        if root is None:
            raise WeightsMissing(
                f"pretrained = {name} lies in the data folder: name the folder with --data or "
                "FEDSWEEP_DATA, or write the absolute path of the file"
            )
        path = root / path
    if not path.is_file():
        raise WeightsMissing(f"pretrained = {name}: there is no file {shown(path)}: put it there")
    return path


def content_hash(name: str, root: Path | None) -> str:
    """Return the hash of a file of weights.

    Raises:
        WeightsMissing: there is no such file, or it cannot be read.
        BadData: it is no safetensors file.

    """
    from safetensors import SafetensorError, safe_open

    path = locate(name, root)
    try:
        with path.open("rb") as file:
            digits = hashlib.file_digest(file, "sha256").hexdigest()[:HASH_DIGITS]
        with safe_open(path, framework="numpy") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise not_safetensors(name, error) from error
    except OSError as error:
        refuse_limit(error)
        raise WeightsMissing(f"pretrained = {name} cannot be read: {error.strerror}") from error
    if not names:
        raise BadData(f"pretrained = {name} holds no weights: choose another file")
    return digits


def read(name: str, planned: str | None, root: Path | None) -> bytes:
    """Return the content of a file of weights, whose hash must be the planned one.

    Raises:
        WeightsMissing: there is no such file, it cannot be read, or it has another hash.

    """
    path = locate(name, root)
    try:
        content = path.read_bytes()
    except OSError as error:
        refuse_limit(error)
        raise WeightsMissing(f"pretrained = {name} cannot be read: {error.strerror}") from error
    if planned is not None and (digits := _hash(content)) != planned:
        raise WeightsMissing(
            f"pretrained = {name} has the hash {digits} here, and the trial was planned with "
            f"{planned}: put the planned file there, or plan again with this one"
        )
    return content


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]


def not_safetensors(name: str, error: Exception) -> BadData:
    """Return the refusal of a file of another kind, or a damaged one."""
    return BadData(f"pretrained = {name} is no safetensors file ({error}): choose another file")
