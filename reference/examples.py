"""The page on examples: the plans, scripts and packages of the folder `examples`."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from fedsweep.plans import Trials, read_plan
from fedsweep.words import counted
from reference.docstrings import REPOSITORY
from reference.markdown import code, document, prose, sentence, table

FOLDER = REPOSITORY / "examples"


def page() -> str:
    """Return the page."""
    return document(
        "Examples",
        "The folder `examples` has plans to run or to copy. `fedsweep plan FILE --dry-run` prints "
        "the cost of one. `fedsweep plan FILE --set rounds=2` is a short try.",
        "## Plans",
        table(
            ["plan", "about", "data", "size"],
            ([_link(file), about(file), _data(file), _size(file)] for file in plans()),
        ),
        "## Programs and packages",
        table(["file", "about"], _others()),
        sources=("examples/",),
    )


def plans() -> list[Path]:
    """Return the plan files of the folder."""
    return sorted(FOLDER.glob("*.toml"))


def about(file: Path) -> str:
    """Return the comment at the top of a plan, without its commands."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return prose(" ".join(line[1:].strip() for line in lines if not line.startswith("#   ")))


def _link(file: Path) -> str:
    return f"[{code(file.name)}](../../{file.relative_to(REPOSITORY).as_posix()})"


def _data(file: Path) -> str:
    return code(tomllib.loads(file.read_text())["protocol"]["dataset"])


def _size(file: Path) -> str:
    """Return the numbers of trials, of arms to search, and of rounds."""
    sweep = read_plan(file)
    rounds = sum(config.rounds for config in Trials.of(sweep.trials).configs)
    arms = f", {counted(len(sweep.arms), 'arm')} to search" if sweep.arms else ""
    return f"{counted(len(sweep.trials), 'trial')}, {rounds:,} rounds{arms}"


def _others() -> Iterator[list[str]]:
    """Yield a row for each script, for the notebook and for each package."""
    for file in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*/*.py")]):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        yield [_link(file), prose(sentence(text))]
    yield [_link(FOLDER / "notebook.ipynb"), "A sweep, its results and its report in a notebook."]
