"""The samples of a data set, counted: everything that a plan checks partitions with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stock:
    """The samples of a data set. All but `test` are training samples."""

    samples: int
    classes: tuple[int, ...] = ()
    """Samples of each class; empty if each pixel has a class."""
    groups: tuple[int, ...] = ()
    """Samples of each natural client; empty if the data have none."""
    test: int = 0
    """Test images; 0 if their number is not known."""
    tested: tuple[int, ...] = ()
    """Test images of each natural client; empty if test images belong to no client."""
    side: int | None = None
    """Pixels of a side of the images, if their files tell; None if they are resized, or if that is
    not known."""
    files: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Samples of each client, for each file of a partition."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Sentences about the samples that a user may not expect."""
