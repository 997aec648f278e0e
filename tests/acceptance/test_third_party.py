"""A normalizer of another package, installed as its author would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.command import at_once, environment, fedsweep, query
from tests.builders import REPOSITORY, TINY


def test_another_package_s_normalizer_is_planned_trained_and_reported(tmp_path: Path) -> None:
    """`frn` comes from examples/frn_normalizer. Its package and version are part of the numerics.

    Without the package, a plan that names it is refused. The test takes more than ten seconds,
    because pip builds the package, and real processes train with torch.
    """
    place = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    source = str(REPOSITORY / "examples" / "frn_normalizer")
    subprocess.run([*install, str(place), source], check=True, env=environment())
    plan = tmp_path / "frn.toml"
    plan.write_text(TINY.replace('["bn", "gn"]', '"frn"').replace("seed = [0, 1]", "seed = 0"))
    db = ("--db", f"sqlite:///{tmp_path}/frn.db")

    refused = at_once("plan", str(plan), *db, code=2).stderr
    assert 'normalizer = "frn" is none of bn, fixbn, gn' in refused
    path = {"PYTHONPATH": str(place)}
    assert "2 new trials" in fedsweep("plan", str(plan), *db, **path).stdout
    work = ("work", *db, "--device", "cpu", "--until-empty")
    assert "2 trials finished, 0 failed" in fedsweep(*work, **path).stdout
    states = query(db[1], "SELECT state FROM results WHERE normalizer = 'frn'")
    assert states == [("finished",)]
    (numerics,) = query(
        db[1],
        "SELECT numerics FROM attempts a JOIN trials t ON t.id = a.trial "
        "WHERE t.normalizer = 'frn'",
    )
    assert '"normalizer": "frn-normalizer 1.0"' in numerics[0]
    assert "FRN" in at_once("report", *db).stdout
