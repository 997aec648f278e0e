"""`make gpu`: the CUDA tests, the figures of a GPU, and a whole search on CIFAR-10, in this order.

Each part has its own time limit. A part that fails or takes too long does not stop the next one.
Nothing is fetched from the internet. All output is written to one file, bench-results/gpu.md.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path("bench-results/gpu.md")
STORE = Path("bench-results/search_cifar10.db")
"""The search's store. A second run continues it."""

PLAN = "examples/search_cifar10.toml"
SEARCH_HOURS = 4.0
"""The limit of the search. Its running trials are then saved."""

KERNEL_TESTS = "tests/unit/trainers/test_kernels.py"
"""They run on a GPU, or without one in Triton's interpreter."""

KILL_SECONDS = 10.0
"""Seconds that a command has to end after SIGTERM."""


@dataclass(frozen=True)
class Part:
    """Some commands, run one after another, with a time limit for all of them together."""

    name: str
    commands: Sequence[Sequence[str]]
    seconds: float
    missing: str = ""
    """The reason why the part cannot be run."""


def parts(images: Path) -> list[Part]:
    """Return the parts. `images` is CIFAR-10 as an image folder."""
    python = sys.executable
    fedsweep, store = (python, "-m", "fedsweep"), f"sqlite:///{STORE}"
    hours, on = str(SEARCH_HOURS), ("--db", store)
    work = ("--data", str(images), "--device", "cuda", "--slots", "auto", "--until-empty")
    search = [
        (*fedsweep, "plan", PLAN, "--data", str(images), *on),
        (*fedsweep, "work", *work, "--max-hours", hours, *on),
        (*fedsweep, "search", "show", *on),
        (*fedsweep, "sql", "--recipe", "ledger", *on),
        (*fedsweep, "report", *on),
    ]
    absent = f"there are no images in {images}/train: make gpu IMAGES=folder"
    return [
        Part(
            "CUDA tests",
            [
                (python, "-m", "pytest", "-q", "-m", "gpu", "tests"),
                (python, "-m", "pytest", "-q", KERNEL_TESTS),
            ],
            1800,
        ),
        Part("figures", [(python, "-m", "tests.benchmarks", "gpu")], 1800),
        Part(
            "search on CIFAR-10",
            search,
            3600 * SEARCH_HOURS + 900,
            "" if (images / "train").is_dir() else absent,
        ),
    ]


def run_parts(parts: Sequence[Part], results: Path, heading: str) -> bool:
    """Run the parts, and write their output to a file as it comes. Return if all succeeded."""
    results.parent.mkdir(parents=True, exist_ok=True)
    sound = True
    with results.open("w", encoding="utf-8") as file:
        print(heading, file=file, flush=True)
        for part in parts:
            print(f"\n## {part.name}\n", file=file, flush=True)
            outcome = part.missing and f"not run: {part.missing}"
            began = time.monotonic()
            for command in () if part.missing else part.commands:
                left = began + part.seconds - time.monotonic()
                print(f"```\n$ {' '.join(command)}", file=file, flush=True)
                code = _run(command, file.fileno(), left)
                print("```", file=file, flush=True)
                if code != 0:
                    ended = "took too long" if code is None else f"exited with {code}"
                    outcome = f"{command[0]} {ended}"
                    break
            outcome = outcome or "succeeded"
            sound &= outcome == "succeeded"
            line = f"{part.name}: {outcome}, {time.monotonic() - began:.0f} s"
            print(f"\n{line}", file=file, flush=True)
            print(line, flush=True)
    return sound


def _run(command: Sequence[str], output: int, seconds: float) -> int | None:
    """Run a command. Return its exit code, or None if it was ended after these seconds."""
    process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        return None
    finally:  # the whole group, which may have other processes, also after Ctrl-C
        for number, wait in ((signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait)


def heading(device: str) -> str:
    """Return the title, with the card, its clocks and the versions."""
    import torch

    asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,memory.total,power.limit"
    call = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"]
    try:
        card = subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        card = torch.cuda.get_device_name(device)
    try:
        import triton

        compiler = f"triton {triton.__version__}"
    except ImportError:
        compiler = "no triton"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {compiler}"
    return f"# fedsweep on a GPU\n\n```\n{card}\n{versions}\n```"


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit("make gpu: there is no CUDA device here, so nothing was run")
    images = Path(sys.argv[1] if len(sys.argv) > 1 else "cifar10")
    sound = run_parts(parts(images), RESULTS, heading("cuda:0"))
    print(RESULTS.absolute())
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
