"""Files that name the client of each sample: the file of a partition, and `clients.csv`.

A plan reads them too, so this file imports neither torch nor numpy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers import regular
from trainers.data.clients import in_order
from trainers.data.errors import BadData, Missing, counted, listed, reading, shown
from trainers.text import decode

MOST_BYTES = 2**28
"""Bytes of such a file, at most: enough for millions of samples."""


@dataclass(frozen=True)
class Assignment:
    """The clients of a partition's file, and each training sample's client."""

    clients: tuple[str, ...]
    members: list[int]
    fingerprint: str
    """A hash of the file's content."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each client."""
        counts = Counter(self.members)
        return tuple(counts[client] for client in range(len(self.clients)))


def read_partition(path: Path, samples: int, names: Sequence[str] | None = None) -> Assignment:
    """Return each training sample's client, from a CSV (sample, client) or a JSON object.

    A sample is its place among the training samples, from 0 on, or one of the `names`.

    Raises:
        Missing: there is no such file.
        BadData: it is no such file, or a sample is unknown, missing or doubled.

    """
    pairs, fingerprint = read_pairs(path, "sample")
    places = {str(i): i for i in range(samples)}
    if names is not None and any(sample not in places for sample, _ in pairs):
        places = {name: i for i, name in enumerate(names)}
    clients, members = assign(path, pairs, places, "training sample")
    return Assignment(clients, members, fingerprint)


def assign(
    path: Path, pairs: Iterable[tuple[str, str]], places: dict[str, int], noun: str
) -> tuple[tuple[str, ...], list[int]]:
    """Return the clients in order, and the client of each place.

    Raises:
        BadData: a sample is unknown, missing or doubled.

    """
    client_of: dict[str, str] = {}
    for sample, client in pairs:
        if sample not in places:
            raise BadData(
                f"{shown(path)} names {shown(sample)}, which is no {noun}: remove it, or "
                "choose the file of these data"
            )
        if sample in client_of:
            raise BadData(f"{shown(path)} names the {noun} {shown(sample)} twice: remove one")
        client_of[sample] = client
    if missing := len(places) - len(client_of):
        first = next(name for name in places if name not in client_of)
        raise BadData(
            f"{shown(path)} lacks {counted(missing, noun)} (the first is {shown(first)}): give "
            "each a client"
        )
    clients = tuple(in_order(client_of.values()))
    at = {name: i for i, name in enumerate(clients)}
    return clients, [at[client_of[name]] for name in places]


def read_pairs(path: Path, column: str) -> tuple[list[tuple[str, str]], str]:
    """Return the samples and their clients in the order of a file, and a hash of its content.

    Raises:
        Missing: there is no such file.
        BadData: it is no such file.

    """
    if not path.is_file():
        raise Missing(f"there is no file {shown(path)}: put it there, or change --data")
    kind = "a JSON object" if path.suffix == ".json" else f"a CSV of {column} and client"
    with reading(path, kind):
        content = regular.read(path, MOST_BYTES)
        text = decode(content)
        pairs = _json_pairs(text) if path.suffix == ".json" else _csv_pairs(text, column)
        if empty := [sample for sample, client in pairs if not client]:
            raise ValueError(f"no client is named for {listed(empty)}")
    return pairs, hashlib.sha256(content).hexdigest()[:32]


def _json_pairs(text: str) -> list[tuple[str, str]]:
    """Return the entries of a JSON object, doubled ones too."""
    entries: Any = json.loads(text, object_pairs_hook=_Entries)
    if not isinstance(entries, _Entries):
        raise TypeError('it must be an object, such as {"0": "a", "1": "b"}')
    pairs = []
    for sample, client in entries:
        if isinstance(client, bool) or not isinstance(client, (str, int)):
            raise TypeError(f"the client of {sample} is neither text nor a whole number")
        pairs.append((sample, str(client)))
    return pairs


class _Entries(list[tuple[str, Any]]):
    """The entries of a JSON object, in order."""


def _csv_pairs(text: str, column: str) -> list[tuple[str, str]]:
    rows = csv.DictReader(io.StringIO(text), strict=True)
    if rows.fieldnames is None or not {column, "client"} <= set(rows.fieldnames):
        raise ValueError(f"its first line must name the columns {column},client")
    pairs = []
    for row in rows:
        if row[column] is None or row["client"] is None or None in row:
            raise ValueError(f"line {rows.line_num} has another number of columns than the first")
        pairs.append((row[column].strip(), row["client"].strip()))
    return pairs
