"""The page about many machines on one Postgres: its commands, and its numbers."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy.engine import Engine, make_url

from fedsweep.store.sql import ask
from tests.acceptance.command import at_once, environment, eventually, query
from tests.benchmarks import machines
from tests.builders import REPOSITORY
from tests.servers import free_port

DOCS = REPOSITORY / "docs" / "how-to"
PAGES = {name: (DOCS / name).read_text() for name in ("many-machines.md", "kubernetes.md")}
PAGE = PAGES["many-machines.md"]
COMMANDS = [
    line.removeprefix("$ ").partition(" #")[0]
    for page in PAGES.values()
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", page, flags=re.DOTALL)
    for line in block.splitlines()
    if line.removeprefix("$ ").startswith("fedsweep ")
]
SSHD = "/usr/sbin/sshd"


STATEMENTS = [line for line in COMMANDS if line.startswith('fedsweep sql "')]


@pytest.mark.parametrize("line", STATEMENTS)
def test_every_statement_of_the_page_is_answered(line: str, postgres_url: str) -> None:
    """It is answered by Postgres, and has one line for a person to read."""
    statement = shlex.split(line)[2]
    engine: Engine = machines.fill.open_store(postgres_url)
    try:
        assert ask.ask(engine, statement).columns
    finally:
        engine.dispose()


def test_the_pages_have_commands() -> None:
    """Otherwise the tests above would test nothing."""
    assert len(COMMANDS) >= 7
    assert len(STATEMENTS) == 2


def row(name: str) -> float:
    """Return the number in a row of the table of sizes."""
    (number,) = re.findall(rf"^\| {re.escape(name)} \| ([\d,]+) \|$", PAGE, flags=re.MULTILINE)
    return float(number.replace(",", ""))


@pytest.mark.slow
@pytest.mark.usefixtures("walk_in_test")
def test_the_page_tells_the_bytes_of_rounds_and_of_clients(postgres_url: str, tiny: Path) -> None:
    """6,000 rounds with the accuracy of four clients. The numbers are right to a quarter."""
    machines.train(postgres_url, tiny, 1000, "client_accuracy=true")
    round_bytes = machines.bytes_per_row(postgres_url, "rounds")
    client_bytes = machines.bytes_per_row(postgres_url, "client_rounds")
    assert row("round") == pytest.approx(round_bytes, rel=0.25)
    assert row("client and round with `client_accuracy`") == pytest.approx(client_bytes, rel=0.25)


@pytest.mark.slow
@pytest.mark.usefixtures("walk_in_test")
def test_idle_slots_keep_a_connection_each_and_busy_slots_keep_none(
    postgres_url: str, tiny: Path
) -> None:
    """Two workers of two slots listen. When they train, there are moments without a connection."""
    idle = {"slots": 2, "workers": 2}
    with machines.working(
        postgres_url, 2, until=lambda: machines.all_listen(postgres_url, **idle), workers=2
    ):
        assert machines.all_listen(postgres_url, **idle)
    at_once("plan", str(tiny), "--db", postgres_url, "--set", "rounds=1000")
    with (
        machines.working(
            postgres_url,
            2,
            until=lambda: machines.all_train(postgres_url, **idle),
            workers=2,
            WALK_SECONDS="1",
        ),
        psycopg.connect(postgres_url, autocommit=True, application_name="counting") as connection,
    ):
        eventually(lambda: connection.execute(machines.OPEN).fetchone() == (0,))
        assert machines.all_train(postgres_url, **idle)


def ssh_line() -> str:
    """Return the line that starts a worker on another machine."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith("ssh gpu1 ")]
    return line


@contextmanager
def ssh(folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run an sshd on its own port, with its own keys. Yield the words that replace `ssh gpu1`."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("there is no sshd here: install Debian's package openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        key = str(folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    port = free_port()
    settings = " ".join(f'"{name}={value}"' for name, value in variables.items())
    (folder / "sshd.conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nSetEnv {settings}\n"
    )
    (folder / "ssh.conf").write_text(
        f"Host gpu1\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nStrictHostKeyChecking accept-new\n"
        f"UserKnownHostsFile {folder}/known\nConnectionAttempts 20\nLogLevel ERROR\n"
    )
    with (folder / "sshd.log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", f"{folder}/sshd.conf"], stderr=log)
        try:
            eventually(lambda: "listening" in (folder / "sshd.log").read_text())
            yield f"ssh -F {folder}/ssh.conf gpu1"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def shell(_folder: Path, _variables: dict[str, str]) -> Iterator[str]:
    """Yield the words of a shell on this machine."""
    yield "sh -c"


SECRET = "hunter2-in-the-url"


@pytest.mark.usefixtures("walk_in_test")
@pytest.mark.parametrize(
    "remote", [shell, pytest.param(ssh, marks=pytest.mark.slow)], ids=["sh", "ssh"]
)
def test_the_line_of_the_page_starts_a_worker_whose_url_no_process_list_shows(
    remote: object, postgres_url: str, tiny: Path, tmp_path: Path
) -> None:
    """The worker outlives the connection. It trains all trials, and its log has no password."""
    assert callable(remote)
    secret_url = make_url(postgres_url).set(password=SECRET)
    at_once("plan", str(tiny), "--db", postgres_url)
    study, url_file = tmp_path / "study", tmp_path / "db.txt"
    study.mkdir()
    url_file.write_text(secret_url.render_as_string(hide_password=False) + "\n")
    held = tmp_path / "deeds"
    held.mkdir()
    (held / "hang-2").touch()
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WALK_FOLDER": str(held),
        **{name: os.environ[name] for name in ("PYTHONPATH", "FEDSWEEP_TEST_ENGINE")},
    }
    with remote(tmp_path, variables) as words:
        line = ssh_line().replace("ssh gpu1", words).replace("<db.txt", f"<{url_file}")
        line = line.replace("cd study", f"cd {study}")
        done = subprocess.run(
            ["sh", "-c", line],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    eventually(lambda: query(postgres_url, "SELECT count(*) FROM rounds")[0][0] >= 1)
    lists = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    workers = [words for words in lists if "--until-empty" in words and "work" in words]
    assert workers
    assert not any(SECRET in word for words in lists for word in words)
    (held / "hang-2").unlink()
    log = study / "work.log"
    eventually(lambda: "6 trials finished" in log.read_text())
    assert SECRET not in log.read_text()
    assert query(postgres_url, "SELECT count(*) FROM results WHERE state = 'finished'") == [(6,)]
