"""No text of a database, a plan or a name can control the terminal, in any command."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedsweep.store.schema import open_store
from fedsweep.store.tables import metadata
from fedsweep.store.transactions import transaction
from tests import study
from tests.acceptance.command import FEDSWEEP, at_once, environment, fedsweep, query
from tests.builders import TINY

CODES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066\r"
"""Codes for a title, a cleared screen, a color in one byte, right-to-left text, a new line."""

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

COMMANDS = [
    ["status"],
    ["sweep", "list"],
    ["trial", "list"],
    ["trial", "show", "TRIAL"],
    ["trial", "logs", "TRIAL"],
    ["trial", "priority", "TRIAL", "--to", "1"],
    ["trial", "retry", "TRIAL"],
    ["report"],
    ["report", "--output", f"{CODES}.txt"],
    ["report", "--figures", "figures"],
    ["search", "show"],
    ["sql", "SELECT * FROM results"],
    ["sql", f"SELECT '{CODES}' AS \"{CODES}\""],
    ["sql", f"SELECT {CODES}"],
    ["verify", "TRIAL"],
    ["db", "check"],
    ["db", "gc", "--dry-run"],
    ["db", "copy", "sqlite:///fedsweep.db", "sqlite:///copy.db"],
    ["db", "merge", "sqlite:///fedsweep.db", "sqlite:///into.db"],
    ["export", "parquet", "--output", f"p{CODES}"],
    ["export", "tensorboard", "--output", f"t{CODES}"],
    ["export", "mlflow", "--output", "m"],
    ["export", "weights", "TRIAL"],
    ["plan", "codes.toml"],
    ["plan", "named.toml"],
    ["plan", f"{CODES}.toml"],
    ["work", "--device", "cpu", "--until-empty", "--sweep", f"{CODES}x"],
    ["sweep", "pause", f"study{CODES}"],
    ["serve", "--host", f"x{CODES}"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database has codes in each free text, and plans with codes."""
    folder = tmp_path_factory.mktemp("codes")
    store = open_store(f"sqlite:///{folder}/fedsweep.db", create=True)
    study.fill(store, folder)
    free = {
        "sweeps": ["name", "artifacts"],
        "plans": ["text"],
        "trials": ["error", "device", "numerics_id"],
        "attempts": ["error", "device", "worker", "host", "traceback"],
    }
    with transaction(store) as connection:
        for table, columns in free.items():
            values = ", ".join(f"{c} = coalesce({c}, '') || :codes" for c in columns)
            assert {*columns} <= {*metadata.tables[table].c.keys()}
            connection.execute(sa.text(f"UPDATE {table} SET {values}"), {"codes": CODES})
        connection.execute(
            sa.text(
                "INSERT INTO logs (trial, fence, n, at, level, message) "
                "SELECT trial, fence, 1, 0.0, 'warning', :codes FROM attempts"
            ),
            {"codes": CODES},
        )
        # A trial that is not as it must be, for `db check`.
        connection.execute(
            sa.text(
                "UPDATE trials SET trial_id = trial_id || :codes, final_round = 1 WHERE id = 2"
            ),
            {"codes": CODES},
        )
    store.dispose()
    open_store(f"sqlite:///{folder}/into.db", create=True).dispose()
    comment = f"# {CODES[-7:-1]}\x9b31m\n"
    (folder / "codes.toml").write_text(comment + TINY.replace('"tiny"', '"again"'))
    at_once("plan", "codes.toml", "--db", "sqlite:///fedsweep.db", cwd=folder)
    (folder / "codes.toml").write_text(f"{comment}{comment}" + TINY.replace('"tiny"', '"again"'))
    named = TINY.replace('"digits"', '"\\u001b]0;x\\u0007\\u009b31m\\u202e"')
    (folder / "named.toml").write_text(named)
    return folder


PROCESSES = (
    ["trial", "list"],
    ["db", "gc", "--dry-run"],
    ["plan", "codes.toml"],
    ["plan", "named.toml"],
)
"""Commands that are also started as a user starts them; `work` starts its own process."""


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("started", "command"),
    [
        *(
            pytest.param(
                "within",
                words,
                id=ascii(" ".join(words)),
                marks=pytest.mark.slow if "mlflow" in words else (),  # its import takes seconds
            )
            for words in COMMANDS
        ),
        *(pytest.param("process", words, id=ascii(f"process: {words}")) for words in PROCESSES),
    ],
)
def test_no_command_prints_terminal_codes(started: str, command: list[str], folder: Path) -> None:
    """Neither standard output nor standard error has codes, if the command succeeds or fails."""
    trial = query(f"sqlite:///{folder}/fedsweep.db", "SELECT trial_id FROM trials ORDER BY id")[0][
        0
    ]
    words = [trial if word == "TRIAL" else word for word in command]
    if started == "within":
        out, err = output_within(words, folder)
    else:
        done = subprocess.run(
            [*FEDSWEEP, *words],
            cwd=folder,
            env=environment(PYTHONIOENCODING="utf-8"),
            capture_output=True,
            timeout=300,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err
    assert out + err
    assert OBEYED.findall(out + err) == []


def output_within(words: list[str], folder: Path) -> tuple[str, str]:
    """Return the output of a command in this process, for any exit code."""
    for code in (0, 1, 2):
        try:
            done = at_once(*words, cwd=folder, code=code)
        except AssertionError:
            continue
        return done.stdout, done.stderr
    raise AssertionError(words)


@pytest.mark.parametrize("format", ["csv", "markdown"])
def test_data_are_unchanged_in_a_file_and_visible_on_a_terminal(format: str, folder: Path) -> None:
    """A program gets the value as it is; a terminal gets replacement characters."""
    command = ["report", "--format", format, "--sweep", query_name(folder)]
    if format == "csv":
        command = ["sql", f"SELECT 'a{CODES[:-1]}b' AS x", "--format", "csv"]
        assert "\x1b]0;owned" in fedsweep(*command, cwd=folder).stdout
    main_end, terminal = pty.openpty()
    env = environment(TERM="xterm", PYTHONIOENCODING="utf-8")
    with subprocess.Popen(
        [*FEDSWEEP, *command], cwd=folder, env=env, stdout=terminal, stderr=terminal
    ) as done:
        os.close(terminal)
        output = b""
        try:
            while chunk := os.read(main_end, 4096):
                output += chunk
        except OSError:  # Linux reports the end of a terminal this way
            pass
    os.close(main_end)
    assert done.returncode == 0
    assert OBEYED.findall(output.decode().replace("\r\n", "\n")) == []


def query_name(folder: Path) -> str:
    return str(
        query(f"sqlite:///{folder}/fedsweep.db", "SELECT name FROM sweeps ORDER BY id")[0][0]
    )


def test_a_live_view_prints_only_its_own_codes(folder: Path) -> None:
    """The colors of rich are printed, and the codes of a name are not."""
    import io

    from rich.text import Text

    from fedsweep import output as streams
    from fedsweep.cli.visible_console import VisibleConsole

    out = io.StringIO()
    console = VisibleConsole(file=out, force_terminal=True, width=80, color_system="standard")
    console.print(Text(f"a{CODES}b", style="red"))
    assert "\x1b[31m" in out.getvalue()
    assert "\x1b]0;" not in out.getvalue()
    assert "\x9b" not in out.getvalue()
    assert streams.unfiltered(out) is out


def test_export_tensorboard_stays_in_its_folder(sqlite_url: str, tmp_path: Path) -> None:
    """No name of a sweep or trial in a foreign database leads out of the folder."""
    home = tmp_path / "home"
    home.mkdir()
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    with transaction(store) as connection:
        name = "../../escaped"
        connection.execute(sa.text("UPDATE sweeps SET name = :name"), {"name": name})
        connection.execute(sa.text("UPDATE trials SET momentum = '/../../../escaped'"))
        connection.execute(sa.text("UPDATE trials SET trial_id = '../' || trial_id WHERE id = 1"))
    store.dispose()
    before = set(tmp_path.rglob("*"))
    at_once("export", "tensorboard", "--output", "home/out", "--db", sqlite_url, cwd=tmp_path)
    more = set(tmp_path.rglob("*")) - before
    assert all(p.is_relative_to(home) for p in more if "fedsweep.db" not in p.name)
    assert len([p for p in more if p.is_file() and p.is_relative_to(home)]) == 12
    assert not (tmp_path.parent / "escaped").exists()


def test_a_foreign_name_stays_text_in_latex_and_markdown(sqlite_url: str, tmp_path: Path) -> None:
    """A line end in a name does not end a comment, a heading or a row."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    name = "x\n\\input{/etc/passwd}\r\\write18{id}\n\n<script>alert(1)</script>"
    with transaction(store) as connection:
        connection.execute(sa.text("UPDATE sweeps SET name = :name"), {"name": name})
    store.dispose()
    output = at_once("report", "--format", "latex", "--db", sqlite_url, cwd=tmp_path).stdout
    assert "% \\input{/etc/passwd}" in output
    for line in output.splitlines():
        assert "\\input{/" not in line.partition("%")[0]
        assert "\\write18" not in line.partition("%")[0]
    output = at_once("report", "--format", "markdown", "--db", sqlite_url, cwd=tmp_path).stdout
    assert "&lt;script>" in output.splitlines()[0]
    assert not [line for line in output.splitlines() if line.startswith(("\\", "<"))]
