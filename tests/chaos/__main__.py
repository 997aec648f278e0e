"""`python -m tests.chaos --database sqlite --minutes 3`: exit 1 if there is a fault."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.chaos.calm import Calm
from tests.chaos.play import Play, perform


def main() -> int:
    options = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-chaos-run-"))
    (folder / "calm").mkdir()
    print(f"in {folder}", file=sys.stderr)
    without = tuple(options.without)
    play = Play(
        database=options.database,
        minutes=options.minutes,
        seed=options.seed,
        workers=options.workers,
        without=without,
        strict=options.strict,
        verify=options.verify,
    )
    console = Console()
    report = perform(play, folder, Calm(folder / "calm"), lambda said: print(said, file=sys.stderr))
    report.print(console)
    if options.report:
        options.report.write_text(json.dumps(asdict(report), indent=2))
    if report.faults or options.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if report.faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgres"], required=True)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long it is disturbed")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances")
    parser.add_argument("--workers", type=int, default=3, help="at a time")
    parser.add_argument("--without", action="append", default=[], metavar="DISTURBANCE")
    parser.add_argument("--strict", action="store_true", help="no worker may give up at its work")
    parser.add_argument("--verify", type=int, default=0, metavar="N", help="train N trials again")
    parser.add_argument("--report", type=Path, metavar="FILE.json")
    parser.add_argument("--keep", action="store_true", help="the workers' logs and the database")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
