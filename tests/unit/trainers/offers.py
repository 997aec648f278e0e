"""Parts of another package, as if it were installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from trainers import registry


def offer(monkeypatch: pytest.MonkeyPatch, group: str, **values: str) -> None:
    """Offer objects of test modules in a group of entry points, by their names."""
    points = [EntryPoint(name, value, group) for name, value in values.items()]

    def found(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [p for p in points if p.group == group and name in (None, p.name)]

    monkeypatch.setattr(registry, "entry_points", found)
    cached = registry._names  # another offer may have replaced it
    monkeypatch.setattr(registry, "_names", getattr(cached, "__wrapped__", cached))
