"""`fedsweep plan`: the sentences on the data that it looked at."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.command import at_once
from tests.conftest import TINY, make_picture_folder


def test_a_plan_says_what_it_found_in_an_image_folder(tmp_path: Path) -> None:
    """The summary follows the number of trials, in a dry run too."""
    root = make_picture_folder(tmp_path / "data", classes=3, each=20)
    for i in range(15):
        (root / "train" / "class0" / f"{i}.gif").write_bytes(b"x")
    for part in ("train", "test"):
        (root / part / "class1" / ".cache").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY)
    plan = ("plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "data")
    for more in (("--dry-run",), ()):
        said = at_once(*plan, *more, cwd=tmp_path).stdout.splitlines()
        assert said[0].startswith("tiny: ")
        assert "  imagefolder: 3 classes, 60 + 15 images; ignored: 15 .gif, 2 hidden" in said
