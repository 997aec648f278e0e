"""Metrics for Prometheus, in its text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedsweep.serve import presentation
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store import live
from fedsweep.store.progress import SweepProgress, sweep_progress
from fedsweep.store.rows import Row

_MEMORY = "Memory that an attempt has taken at most, with the other trials of its process."

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LEDGER = {
    "rounds_trained": "Rounds trained by the sweep's attempts.",
    "rounds_shared": "Rounds that the sweep's trials inherited from siblings.",
    "rounds_lost": "Rounds trained in vain.",
    "seconds_trained": "Seconds of training.",
    "seconds_lost": "Seconds of training in vain.",
}
"""The columns of the view `ledger` that are exported, with their help texts."""


@dataclass(frozen=True)
class Sample:
    """One value with its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Metric:
    """A gauge or a counter with its samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def exposition(cache: ReadCache) -> str:
    """Return all metrics as text."""
    current = metrics(
        cache.read(sweep_progress),
        cache.read(live.failure_counts),
        cache.read(live.running),
        cache.read(live.ledgers),
    )
    return "".join(map(text, current))


def metrics(
    sweeps: Iterable[SweepProgress],
    failures: Mapping[str, tuple[int, int]],
    running: Iterable[Row],
    ledgers: Iterable[Row],
) -> list[Metric]:
    """Return the metrics, computed from rows of the store."""
    sweeps, running = list(sweeps), list(running)
    states = [({"sweep": p.sweep, "state": s}, n) for p in sweeps for s, n in _states(p)]
    by_kind = [({"kind": kind}, n_attempts) for kind, (_, n_attempts) in failures.items()]
    left = [({"sweep": p.sweep}, p.seconds_left) for p in sweeps if p.seconds_left is not None]
    labeled = [({"sweep": p.sweep}, p) for p in sweeps]
    slots = [row for row in running if row["lease_left"] >= 0]
    memory = [
        ({"worker": row["worker"], "host": row["host"], "device": row["device"]}, row["memory"])
        for row in slots
        if row["memory"] is not None
    ]
    ledgers = list(ledgers)
    return [
        _metric("trials", "gauge", "Trials by state.", states),
        _metric("rounds_done", "gauge", "Rounds stored.", [(k, p.rounds_done) for k, p in labeled]),
        _metric("rounds", "gauge", "Rounds planned.", [(k, p.rounds_total) for k, p in labeled]),
        _metric("seconds_left", "gauge", "Seconds of one slot's work that are left.", left),
        _metric("failures", "gauge", "Attempts that failed.", by_kind),
        _metric("slots_training", "gauge", "Slots that train.", [({}, len(slots))]),
        _metric("slots_silent", "gauge", "Slots whose lease has expired.",
                [({}, len(running) - len(slots))]),
        _metric("memory_bytes", "gauge", _MEMORY, memory),
        *(_metric(name, "counter", help, [({"sweep": row["sweep"]}, row[name]) for row in ledgers])
          for name, help in LEDGER.items()),
    ]  # fmt: skip


def _states(progress: SweepProgress) -> Iterable[tuple[str, int]]:
    return presentation.counts(progress).items()


def _metric(
    name: str, kind: str, help: str, samples: Iterable[tuple[Mapping[str, str], Any]]
) -> Metric:
    total = "_total" if kind == "counter" else ""
    values = tuple(Sample(labels, float(value)) for labels, value in samples)
    return Metric(f"fedsweep_{name}{total}", kind, help, values)


def text(metric: Metric) -> str:
    """Return the lines of a metric."""
    lines = [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
    for sample in metric.samples:
        labels = ",".join(f'{name}="{escape(value)}"' for name, value in sample.labels.items())
        lines.append(f"{metric.name}{{{labels}}} {sample.value:.15g}")
    return "\n".join(lines) + "\n"


def escape(value: str) -> str:
    r"""Return the value of a label with \\, \" and \n escaped, as the format requires."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
