"""Packed rows and curves equal the dictionaries that they stand for."""

from __future__ import annotations

from fedsweep.store.packed import CurvePacker, pack


def test_packed_rows_are_the_rows() -> None:
    """Names, their order, values and the types of values stay; equal combinations are shared."""
    names = ["trial_id", "alpha", "seed", "state"]
    rows = [("a", 1, 0, "queued"), ("b", 1.0, 1, "queued"), ("c", 1, 2, "queued")]
    packed = pack(names, rows, frozenset({"alpha", "state"}))
    assert [dict(row) for row in packed] == [dict(zip(names, row, strict=True)) for row in rows]
    assert [list(row) for row in packed] == [names] * 3
    assert [type(row["alpha"]) for row in packed] == [int, float, int]
    assert packed[0]._shared is packed[2]._shared
    assert packed[0].get("other") is None


def test_packed_curves_are_the_curves() -> None:
    """Rounds and values stay, and curves of the same rounds share them."""
    packer = CurvePacker()
    first, second = packer.pack([(1, 0.5), (3, 0.25)]), packer.pack([(1, 0.1), (3, 0.2)])
    assert (dict(first), dict(second)) == ({1: 0.5, 3: 0.25}, {1: 0.1, 3: 0.2})
    assert first._places is second._places
    assert not packer.pack([])
