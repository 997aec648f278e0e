"""File names from foreign texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep.filenames import LONGEST, safe_name

HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".ssh",
    "-rf",
    "a\0b",
    "a\nb",
    "\x1b]0;x\x07",
    "\u202egnp.exe",
    "x" * 5000,
    "日" * 200,
    "\udc80",
    "a ",
    "a.",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_text_becomes_one_name_in_one_folder(text: str, tmp_path: Path) -> None:
    name = safe_name(text)
    (tmp_path / name).write_text("")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert name[0] not in ".-"
    assert name.isprintable()
    assert len(name.encode()) <= LONGEST


def test_hostile_texts_get_different_names() -> None:
    assert len({safe_name(text) for text in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("text", ["study", "cifar10 v1.2+x_y-z", "bn-alpha0.5-seed0-0123abcd", "ü"])
def test_a_plain_name_stays_as_it_is(text: str) -> None:
    """A later export finds the files of an earlier one again."""
    assert safe_name(text) == text
