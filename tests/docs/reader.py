"""Pages of the documentation whose commands are run, and the comparison of their output.

A block ```console has lines that begin with "$ ". They are run in order, in one folder, and the
lines below each are compared with its output. A block ```python is run. A block of another
language whose first line is the comment "# NAME" is written to this file. Blocks ```sh are for
commands that need another machine: they are not run.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
import typer.main

from fedsweep.cli import main
from fedsweep.cli.console import console
from tests.acceptance.command import GET_COMMAND, PATIENCE, at_once, environment
from tests.builders import REPOSITORY
from tests.shared import made_once

DEMO = Path("demo/digits.db")
"""The database of `make demo`. A page that names it begins with it."""

WIDTH = "100"
"""Columns of the terminal in which the output of most pages was copied."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# (\S+\.\w+)( .*)?")
FAILED = re.compile(r"^fedsweep: ", flags=re.MULTILINE)
"""A command may exit with an error only if its page shows the message."""

LEXEMES = (
    (re.compile(r"[━─]+"), "─"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"\d{4}-\d\d-\d\d( |T)\d\d:\d\d(:\d\d)?"), "DATE"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b"), "ID"),
    (re.compile(r"\bp=[\d.e-]+"), "p=0.0"),
    (re.compile(r"[-+]?\d[\d,]*\.\d+(e-?\d+)?(?![\w.])"), "0.0"),
    (re.compile(r"\d+\.\d+(?=%|s\b)"), "0.0"),
    (re.compile(r"\b(\d+d ?)?(\d+h ?)?(\d+m ?)?\d+(\.\d+)? ?(s|ms|min|h)\b"), "TIME"),
    (re.compile(r"\b\d+h( ?\d+m)?|\b\d+m\b"), "TIME"),
    (re.compile(r"(0\.0\)?) ?[*~]"), r"\1"),
    (re.compile(r"\[\d+/\d+, "), "[0/0, "),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" $", flags=re.MULTILINE), ""),
)
"""Texts that differ between two runs, and their common form. Whole numbers are compared."""

FINISHED = re.compile(r"ID .* seed=\d+: finished ")
"""The line of a finished trial, in its common form."""


@dataclass(frozen=True)
class Step:
    """A command of a page with the output that the page shows."""

    command: str
    shown: str


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    text: str

    def steps(self) -> Iterator[Step]:
        """Yield the commands of a console block."""
        command: str | None = None
        shown: list[str] = []
        for line in self.text.splitlines():
            if command is not None and command.endswith("\\"):
                command = command[:-1] + line.strip()
            elif line.startswith("$ "):
                if command is not None:
                    yield Step(command, "\n".join(shown))
                command, shown = line[2:], []
            else:
                assert command is not None, f"output without a command: {line}"
                shown.append(line)
        if command is not None:
            yield Step(command, "\n".join(shown))


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of code of a page."""
    for language, text in FENCE.findall(page):
        yield Block(language, text)


def excerpts(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the path and the lines of each block that shows a part of a file in `examples`."""
    for block in blocks(page):
        first, _, rest = block.text.partition("\n")
        if first.startswith("# examples/"):
            yield first[2:], [line for line in rest.splitlines() if line]


def common(text: str) -> str:
    """Return a text in which everything that differs between two runs has one form."""
    for pattern, form in LEXEMES:
        text = pattern.sub(form, text)
    return "\n".join(line.strip() for line in text.strip("\n").splitlines())


def agrees(shown: str, output: str) -> bool:
    """Compare the output that a page shows with that of a run. "…" stands for any text.

    The lines of finished trials may be in another order, because several slots train at once.
    """
    expected, found = common(shown).splitlines(), common(output).splitlines()
    missing = Counter(filter(FINISHED.match, expected))
    missing.subtract(filter(FINISHED.match, found))
    if any(n > 0 or (n < 0 and "…" not in expected) for n in missing.values()):
        return False
    pattern, output = "", "\n".join(line for line in found if not FINISHED.match(line))
    for line in (line for line in expected if not FINISHED.match(line)):
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, line.split("…"))) + r"\n"
    return re.fullmatch(pattern, output + "\n" if output else "") is not None


@dataclass
class Reader:
    """A reader who types the commands of a page."""

    folder: Path
    programs: Path
    """A folder with the program `fedsweep`, for lines that a shell runs."""
    compares: bool = True
    """Each output must agree with what the page shows, if this is true."""
    width: str = WIDTH
    """Columns of the terminal."""
    variables: dict[str, str] = field(default_factory=dict)
    code: int = 0
    """The exit code of the last command."""

    def follow(self, page: str) -> int:
        """Run a page's blocks, and return the number of its commands."""
        names: dict[str, object] = {}
        count = 0
        for block in blocks(page):
            if block.language == "console":
                steps = list(block.steps())
                for step, following in zip(steps, [*steps[1:], None], strict=True):
                    self.take(step, following)
                count += len(steps)
            elif name := FILE_NAME.fullmatch(block.text.partition("\n")[0]):
                (self.folder / name[1]).write_text(block.text)
            elif block.language == "python":
                with chdir(self.folder), self.environment():
                    exec(compile(block.text, "page", "exec"), names)
        return count

    def take(self, step: Step, following: Step | None) -> None:
        """Run one command and compare its output."""
        output = self.run(step.command)
        asked = following is not None and following.command == "echo $?"
        fails = FAILED.search(step.shown) is not None
        assert asked or bool(self.code) == fails, (step.command, self.code, output)
        assert not self.compares or not step.shown or agrees(step.shown, output), (
            f"$ {step.command}\nthe page shows:\n{step.shown}\nthe command prints:\n{output}"
        )

    def run(self, command: str) -> str:
        """Run a command and return its output."""
        if command == "echo $?":
            code, self.code = self.code, 0
            return str(code)
        plain = not re.search(r"[|<>&;$*]", re.sub(r'"[^"]*"|\'[^\']*\'', "", command))
        words = shlex.split(command, comments=True) if plain else []
        given = {}
        while words and re.match(r"\w+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            given[name] = value
        if words[:1] == ["cd"]:
            self.folder = (self.folder / words[1]).resolve()
            self.code = 0
            return ""
        if words[:1] == ["export"]:
            name, _, value = words[1].partition("=")
            self.variables[name] = value
            self.code = 0
            return ""
        if words[:1] == ["fedsweep"]:
            return self.fedsweep(words[1:], given)
        return self.shell(command)

    def environment(self, given: dict[str, str] | None = None) -> mock._patch_dict:
        more = {"COLUMNS": self.width} | self.variables | (given or {})
        return mock.patch.dict(os.environ, environment(**more), clear=True)

    def fedsweep(self, words: list[str], given: dict[str, str]) -> str:
        """Run a command of fedsweep in this process."""
        output = io.StringIO()
        console.cache_clear()
        with (
            chdir(self.folder),
            self.environment(given),
            mock.patch.object(sys, "argv", ["fedsweep", *words]),
            mock.patch.object(typer.main, "get_command", GET_COMMAND),
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            try:
                main()
                self.code = 0
            except SystemExit as ended:
                self.code = int(ended.code or 0)
        return output.getvalue()

    def shell(self, command: str) -> str:
        """Run a command in bash."""
        with self.environment():
            path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=os.environ | {"PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        self.code = done.returncode
        return done.stdout


def install_programs(folder: Path) -> None:
    """Write the programs `fedsweep` and `python` into a folder, as an environment has them."""
    folder.mkdir()
    for name, start in (("fedsweep", "-P -m fedsweep"), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {start} "$@"\n')
        program.chmod(0o755)


def train_demo(folder: Path) -> None:
    """Do what `make demo` does, with one slot."""
    db = ("--db", f"sqlite:///{folder / DEMO.name}")
    at_once("plan", str(REPOSITORY / "examples" / "digits.toml"), *db)
    at_once("work", *db, "--device", "cpu", "--until-empty")


def demo_of(page: Path, folders: pytest.TempPathFactory, name: str) -> Path | None:
    """Return a folder with the demo's database, trained once, if the page names it."""
    return made_once(folders, name, train_demo) if str(DEMO) in page.read_text() else None


def follow(
    page: Path, folder: Path, demo: Path | None, *, compares: bool = True, width: str = WIDTH
) -> int:
    """Follow a page as its reader does, in a folder with the examples and the demo's database.

    Return the number of its commands.
    """
    programs = folder / "programs"
    install_programs(programs)
    study = folder / "study"
    study.mkdir()
    (study / "examples").symlink_to(REPOSITORY / "examples")
    if demo is not None:
        (study / DEMO).parent.mkdir()
        shutil.copy(demo / DEMO.name, study / DEMO)
    return Reader(study, programs, compares, width).follow(page.read_text())
