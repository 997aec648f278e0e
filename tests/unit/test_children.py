"""Python files of the working folder: no command and no child process imports them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from fedsweep import children
from tests import walk
from tests.acceptance.command import FEDSWEEP, PATIENCE, at_once, environment, query
from tests.builders import TINY

TOKEN = "a-token-of-the-tests"
THIRD = ("torch", "numpy", "sqlalchemy", "trainers", "typer", "optuna", "matplotlib", "psycopg")
PLANTED = sorted({*sys.stdlib_module_names, *THIRD} - {"sitecustomize", "usercustomize"})
SCRIPT = """\
import re
import sys
from fedsweep.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The script that an installer writes for the command `fedsweep`."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep, and a planted file for each module of Python and some packages."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "plan.toml").write_text(TINY.replace("seed = [0, 1]", "seed = 0"))
    at_once("plan", "plan.toml", "--set", "normalizer=bn", cwd=folder)
    with pytest.MonkeyPatch.context() as patch:
        walk.install(patch)
        at_once("work", "--device", "cpu", "--until-empty", cwd=folder)
    for name in PLANTED:
        text = f"open({str(folder / 'MARKER')!r}, 'a').write(__name__ + chr(10))\n"
        (folder / f"{name}.py").write_text(text)
    return folder


def ran(folder: Path) -> list[str]:
    """Return the names of the planted files that ran."""
    marker = folder / "MARKER"
    return marker.read_text().split() if marker.exists() else []


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command `fedsweep`, as an installer writes it."""
    file = tmp_path_factory.mktemp("bin") / "fedsweep"
    file.write_text(SCRIPT)
    return [sys.executable, str(file)]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "command",
    [
        ["plan", "plan.toml", "--set", "seed=1", "--db", "sqlite:///other.db"],
        pytest.param(["work", "--device", "cpu", "--until-empty"], marks=pytest.mark.slow),
        ["sql", "SELECT 1"],
        pytest.param(["report"], marks=pytest.mark.slow),
        ["report", "--format", "html", "--output", "report.html"],
        ["verify", "TRIAL"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_runs_no_file_of_its_working_folder(
    command: list[str], script: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`work` trains a trial with torch, in a process of its own. `verify` repeats a walk."""
    if command[0] == "work":
        at_once("plan", "plan.toml", "--set=seed=2", "--set=normalizer=bn", cwd=here)
    if command[0] == "verify":
        walk.install(monkeypatch)
    trial = query(f"sqlite:///{here}/fedsweep.db", "SELECT trial_id FROM results")[0][0]
    run([*script, *(trial if word == "TRIAL" else word for word in command)], here)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran(folder) == []
    assert done.returncode == 0, done.stderr


def test_python_m_runs_no_file_of_the_working_folder(here: Path, tmp_path: Path) -> None:
    """Python imports a few modules itself to find the program. They are not tested."""
    for name in ("pickle", "selectors", "random", "torch", "sqlite3", "trainers"):
        shutil.copy(here / f"{name}.py", tmp_path)
    shutil.copy(here / "fedsweep.db", tmp_path)
    run([*FEDSWEEP, "sql", "SELECT 1"], tmp_path)
    assert ran(here) == []


def test_the_sql_page_runs_no_file_of_the_working_folder(script: list[str], here: Path) -> None:
    """It starts a child process for each statement."""
    env = environment(FEDSWEEP_TOKEN=TOKEN)
    with subprocess.Popen(
        [*script, "serve", "--port", "0"], cwd=here, env=env, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().partition("?")[0]
            request = urllib.request.Request(
                f"{address}sql?q={quote('SELECT 41 + 1 AS n')}",
                headers={"authorization": f"Bearer {TOKEN}"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert ">42<" in "".join(answer.read().decode().split())
        finally:
            server.send_signal(signal.SIGINT)
    assert ran(here) == []


def test_child_processes_of_a_plug_in_are_not_affected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting for our own processes is removed after their start. A user's own stays."""
    monkeypatch.delenv(children.SAFE_PATH, raising=False)
    with children.safe_path():
        assert os.environ[children.SAFE_PATH]
    assert children.SAFE_PATH not in os.environ
    monkeypatch.setenv(children.SAFE_PATH, "1")
    with children.safe_path():
        pass
    children.forget_safe_path()
    assert os.environ[children.SAFE_PATH] == "1"


def test_a_checkout_as_the_working_folder_can_be_imported(tmp_path: Path) -> None:
    """It comes after Python's own modules."""
    (tmp_path / "fedsweep").symlink_to(Path(children.__file__).parent)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from fedsweep.__main__ import leave_working_folder as leave;"
        "import os; os.chdir(sys.argv[2]); sys.path[0] = sys.argv[2]; leave();"
        "print(sys.argv[2] == sys.path[0], sys.argv[2] in sys.path)"
    )
    home = Path(children.__file__).parent.parent
    for folder, reachable in ((home, True), (tmp_path, False)):
        run = [sys.executable, "-c", code, str(home), str(folder)]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", str(reachable)]
