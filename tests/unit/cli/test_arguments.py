"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from rich.console import Group

from fedsweep.cli import console
from fedsweep.cli.arguments import as_given, url
from fedsweep.errors import StoreUnreachable
from fedsweep.settings import data_folder, setting
from tests.acceptance.command import at_once


def test_a_byte_order_mark_is_removed_from_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable and option may be read from a file, as in `"$(cat url.txt)"`."""
    for name, value in (("DB", "sqlite:///x.db"), ("DATA", "/data"), ("NOTIFY", "https://x")):
        monkeypatch.setenv(f"FEDSWEEP_{name}", f"\ufeff{value}")
    assert url(None) == "sqlite:///x.db"
    assert url("\ufeffsqlite:///y.db") == "sqlite:///y.db"
    assert data_folder(None) == Path("/data")
    assert setting("FEDSWEEP_NOTIFY") == "https://x"
    assert setting("FEDSWEEP_NOTHING") is None
    assert at_once("sql", "\ufeffSELECT 1", "--show").stdout == "SELECT 1\n"


@pytest.mark.parametrize(
    ("command", "option"),
    [(("sweep", "budget", "tiny"), "--rounds"), (("trial", "logs", "abcd"), "--attempt")],
)
def test_a_number_that_a_database_cannot_hold_is_refused(
    command: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    """A number above 2^63 - 1 is refused before the database's driver fails with a traceback."""
    message = at_once(*command, option, str(2**63), cwd=tmp_path, code=2).stderr
    assert f"'{option}'" in message
    assert "Traceback" not in message


WRONG_URLS = {
    "nonsense": "{} is not a database URL",
    "sqlite:///a.db?b": "{} has a ? before 'b'",
    "sqlite:///a\nb.db": "{} has a line end or a control character in it",
    "sqlite://host/a.db": "{} is not a database URL",
    "sqlite:///:memory:": "name a file in {}, as in",
    "sqlite:///loop.db": "correct the links or {}",
    "sqlite:///folder": "name a database file with {}",
    "sqlite:///missing.db": "or name another with {}",
    "sqlite:///notes.txt": "or name another with {}",
    "mysql://host/name": "name a sqlite: or postgresql: URL in {}",
    "postgresql://user:p@ss@host/name": "{} has an @ in its user or password",
    "postgresql://host:word/name": "{} is not a database URL",
    "postgresql://host/name?nothing=1": "{} cannot be opened: libpq has no parameter nothing",
    "postgresql://user@127.0.0.1:1/name": "check the host, port, user and name in {}",
}
"""Part of the message about each of these URLs, without the name of the setting."""


@pytest.mark.parametrize("command", ["status", "work"])
@pytest.mark.parametrize("wrong", WRONG_URLS)
def test_a_message_about_the_url_names_the_setting_that_gave_it(
    wrong: str, command: str, tmp_path: Path
) -> None:
    """The message names the option or the environment variable that the user has to correct."""
    (tmp_path / "loop.db").symlink_to("loop.db")
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("not a database at all")
    text = WRONG_URLS[wrong]
    by_option = at_once(command, "--db", wrong, cwd=tmp_path, code=2, FEDSWEEP_DB="x").stderr
    by_variable = at_once(command, cwd=tmp_path, code=2, FEDSWEEP_DB=wrong).stderr
    assert text.format("--db") in by_option
    assert text.format("$FEDSWEEP_DB") in by_variable
    assert by_variable == by_option.replace("--db", "$FEDSWEEP_DB")


def test_a_message_about_the_default_database_names_the_option(tmp_path: Path) -> None:
    """The option is named if the variable is not set."""
    message = at_once("status", cwd=tmp_path, code=2, FEDSWEEP_DB=" ").stderr
    assert "there is no database fedsweep.db" in message
    assert "or name another with --db" in message


def test_similar_options_are_not_replaced_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the option itself is replaced, not a longer word that contains it."""
    monkeypatch.setenv("FEDSWEEP_DB", "sqlite:///x.db")
    url(None)
    assert as_given("correct --db, --db2 or x--db") == "correct $FEDSWEEP_DB, --db2 or x--db"


def test_a_watch_names_the_setting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of an outage follows the last output and names the variable."""
    monkeypatch.setenv("FEDSWEEP_DB", "postgresql://host/name")
    monkeypatch.setattr(console, "WATCH_SECONDS", 0.0)
    outputs = iter(["an output"])

    def look() -> str:
        for text in outputs:
            return text
        raise StoreUnreachable

    url(None)
    frames = console._frames(look)
    assert next(frames) == "an output"
    reason = cast("Group", next(frames)).renderables[-1]
    assert "user and password in $FEDSWEEP_DB. (trying again)" in str(reason)
