"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep.cli.arguments import data_folder, setting, url
from fedsweep.cli.sql import _text_of
from tests.acceptance.command import at_once


def test_a_byte_order_mark_is_no_part_of_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every variable and option that is read from a file, as in `"$(cat url.txt)"`."""
    for name, value in (("DB", "sqlite:///x.db"), ("DATA", "/data"), ("NOTIFY", "https://x")):
        monkeypatch.setenv(f"FEDSWEEP_{name}", f"\ufeff{value}")
    assert url(None) == "sqlite:///x.db"
    assert url("\ufeffsqlite:///y.db") == "sqlite:///y.db"
    assert data_folder(None) == Path("/data")
    assert setting("FEDSWEEP_NOTIFY") == "https://x"
    assert setting("FEDSWEEP_NOTHING") is None
    assert _text_of("\ufeffSELECT 1", None) == "SELECT 1"


@pytest.mark.parametrize(
    ("command", "option"),
    [(("sweep", "budget", "tiny"), "--rounds"), (("trial", "logs", "abcd"), "--attempt")],
)
def test_a_number_that_a_database_cannot_hold_is_refused(
    command: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    """Above 2^63 - 1, the database's driver would end in a traceback."""
    said = at_once(*command, option, str(2**63), cwd=tmp_path, code=2).stderr
    assert f"'{option}'" in said
    assert "Traceback" not in said
