"""`fedsweep report` on a small fixed store, on both databases."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import statistics
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from sqlalchemy.engine import Engine
from typer.testing import CliRunner

from fedsweep.cli import report as command
from fedsweep.cli.app import app
from fedsweep.errors import RequestError
from fedsweep.plans import read_plan
from fedsweep.reports.grouping import summarize
from fedsweep.reports.latex import document
from fedsweep.reports.tables import ReportOptions
from fedsweep.store import planning
from fedsweep.store.schema import open_store
from fedsweep.store.sql import ask
from fedsweep.store.transactions import transaction
from tests.unit.reports import fixed
from tests.unit.reports.figures import words
from tests.unit.reports.rows import trial

pytestmark = pytest.mark.quick_on("sqlite")

GOLDEN = Path(__file__).parent / "golden"

Report = Callable[..., str]


@pytest.fixture
def report(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Run the command on the fixed store."""
    fixed.fill(store, tmp_path)
    monkeypatch.setattr(command, "read_store", lambda _: store)
    run = CliRunner()

    def run_report(*arguments: str) -> str:
        done = run.invoke(app, ["report", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run_report


def golden(name: str, text: str) -> None:
    """Compare with a checked file. FEDSWEEP_GOLDEN=1 writes the file again."""
    text = re.sub(r"\b[0-9a-f]{8,}\b", "<id>", text)
    if os.environ.get("FEDSWEEP_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_text_equals_the_golden_file(report: Report, tmp_path: Path) -> None:
    """It has a diverged cell, a baseline and queries."""
    report("--baseline", "bn", "--output", str(tmp_path / "report.txt"))
    golden("report.txt", (tmp_path / "report.txt").read_text())


def test_the_latex_equals_the_golden_file(report: Report) -> None:
    """It is a whole document."""
    golden("report.tex", report("--format", "latex", "--baseline", "gn"))


def test_the_json_equals_the_golden_file(report: Report) -> None:
    """Every number is equal to twelve digits."""

    def rounded(value: Any) -> Any:
        return float(f"{value:.12g}") if isinstance(value, float) else value

    parsed = json.loads(report("--format", "json", "--baseline", "bn"))
    records = [{name: rounded(value) for name, value in record.items()} for record in parsed]
    golden("report.json", json.dumps(records, indent=1) + "\n")


def test_the_query_of_a_record_gives_its_numbers(report: Report, store: Engine) -> None:
    """Means are from `cells`, other numbers from the values of single trials."""
    records = json.loads(report("--format", "json"))
    answer = ask.ask(store, records[0]["query"])
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    keys = ("normalizer", "freeze_round", "alpha", "local_steps", "momentum")
    by_key = {tuple(row[k] for k in keys): row for row in rows}
    assert len(by_key) == len(records) == 16
    for record in records:
        row = by_key[tuple(record[k] for k in keys)]
        assert row["n"] == record["n"]
        for name in ("mean_test_accuracy", "std_test_accuracy"):
            assert row[name] == pytest.approx(record[name], rel=1e-6)

    losses = json.loads(report("--format", "json", "--metric", "validation_accuracy"))
    answer = ask.ask(store, losses[0]["query"])
    frame = pd.DataFrame(answer.rows, columns=answer.columns)
    frame["freeze_round"] = frame["freeze_round"].fillna(-1)
    means = frame.groupby(list(keys)).validation_accuracy.mean().to_dict()
    for record in losses:
        key = tuple(-1 if record[k] is None else record[k] for k in keys)
        assert means[key] == pytest.approx(record["mean_validation_accuracy"])


def test_conditions_pooling_and_the_query_agree(report: Report, store: Engine) -> None:
    """The rows are by α and pool both E, for two normalizers."""
    conditions = ["--where", "normalizer=bn,gn", "--where", "alpha<1"]
    output = report(*conditions, "--group-by", "alpha", "--format", "json")
    records = json.loads(output)
    assert [(r["normalizer"], r["n"]) for r in records] == [("bn", 6), ("gn", 6)]
    answer = ask.ask(store, records[0]["query"])
    for record in records:
        values = [row[-1] for row in answer.rows if row[0] == record["normalizer"]]
        assert len(values) == 6
        assert statistics.fmean(values) == pytest.approx(record["mean_test_accuracy"])
        expected = [
            fixed.accuracy(record["normalizer"], 0.1, steps, seed)
            for steps in (1, 5)
            for seed in (0, 1, 2)
        ]
        assert sorted(values) == pytest.approx(sorted(expected))


def test_tables_are_written_for_other_programs(report: Report, tmp_path: Path) -> None:
    """Parquet and a workbook hold the same records as the JSON."""
    records = pd.DataFrame(json.loads(report("--format", "json")))
    for kind, read in (("parquet", pd.read_parquet), ("xlsx", pd.read_excel)):
        file = tmp_path / f"cells.{kind}"
        assert str(file) in report("--format", kind, "--output", str(file))
        frame = read(file)
        assert list(frame.columns) == list(records.columns)
        assert list(frame.mean_test_accuracy) == pytest.approx(list(records.mean_test_accuracy))
        assert list(frame.normalizer) == list(records.normalizer)
    trials = pd.read_excel(tmp_path / "cells.xlsx", sheet_name="trials")
    assert len(trials) == 48
    assert pd.api.types.is_integer_dtype(pd.read_parquet(tmp_path / "cells.parquet").local_steps)
    assert not list(tmp_path.glob(".*.new*"))


@pytest.fixture(scope="module")
def drawn(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result, Callable[[Path], Result]]:
    """A folder with the figures of the fixed store, the result of the command, and the command."""
    folder = tmp_path_factory.mktemp("drawn")
    shutil.copy(sqlite_template, folder / "fedsweep.db")
    url = f"sqlite:///{folder}/fedsweep.db"
    store = open_store(url)
    fixed.fill(store, folder)
    store.dispose()

    def draw(figures: Path) -> Result:
        options = ["--db", url, "--format", "json", "--figures", str(figures)]
        return CliRunner().invoke(app, ["report", *options], catch_exceptions=False)

    return folder / "once", draw(folder / "once"), draw


@pytest.mark.slow
def test_figures_are_written_with_their_data_and_are_the_same_each_time(
    drawn: tuple[Path, Result, Callable[[Path], Result]], tmp_path: Path
) -> None:
    """PDF, SVG, PNG and CSV of everything there is to show."""
    once, _, draw = drawn
    draw(tmp_path / "again")
    names = {file.name for file in once.iterdir()}
    stems = ("wins", "accuracy-by-alpha", "accuracy-by-local_steps", "accuracy-by-freeze-round")
    assert names == {
        f"fixed-firm-{stem}.{kind}"
        for stem in (*stems, "accuracy-by-round")
        for kind in ("pdf", "svg", "png", "csv")
    }
    begins = {"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG", "csv": b"arm,normalizer,"}
    for name in names:
        content = (once / name).read_bytes()
        assert content.startswith(begins[name[-3:]])
        assert content == (tmp_path / "again" / name).read_bytes()


def test_the_winners_are_named_with_their_lead(
    drawn: tuple[Path, Result, Callable[[Path], Result]],
) -> None:
    """GN at five steps by 2 points, FIXBN at one."""
    texts = words((drawn[0] / "fixed-firm-wins.svg").read_text())
    assert {"GN", "FIXBN T⋆=2", "+2.0"} <= set(texts)


WRONG = [
    (["--where", "alfa=1"], "did you mean alpha?"),
    (["--where", "alpha=7"], "has the alpha of --where: there are 0.1, 1"),
    (["--group-by", "freeze_round"], "makes no rows"),
    (["--metric", "accuracy"], "did you mean test_accuracy?"),
    (["--metric", "test_miou"], "no trial of sweep fixed_firm has it: there are test_accuracy, "),
    (["--where", "alpha=0.1", "--where", "seed=9"], "has the seed of --where: there are 0, 1, 2"),
    (["--where", "normalizer=fixbn", "--where", "freeze_round=none"], "meets all of --where"),
    (["--baseline", "in"], "no such column: it has BN"),
    (["--tune", "seed"], "not the seed or normalizer"),
    (["--tune", "freeze_rule"], "write freeze_rule,freeze_round"),
    (["--format", "xlsx"], "needs a file: name it with --output"),
    (["--format", "parquet", "--output", "no/such/folder/x.parquet"], "cannot be written"),
    (["--figures", "/proc/nowhere"], "cannot be written"),
    (["--figure-width", "wide"], "use auto, column, page, or inches from 2 to 30, such as 5.5"),
    (["--figure-width", "nan"], "--figure-width nan: use auto, column, page"),
    (["--figure-width", "1.9"], "--figure-width 1.9: use auto, column, page"),
]


def test_a_wrong_request_is_one_sentence(report: Report) -> None:
    """The exit code is 2."""
    for arguments, says in WRONG:
        with pytest.raises(RequestError) as refused:
            report(*arguments)
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 2


def test_names_are_escaped_in_latex() -> None:
    """A command in a name is text."""
    from fedsweep.reports.latex import escape

    assert escape(r"a_b & \input{x} 50% ~ ✓ α") == (
        r"a\_b \& \textbackslash{}input\{x\} 50\% \textasciitilde{} ? $\alpha$"
    )


def test_sweeps_without_the_baseline_are_left_out_and_named(
    report: Report, store: Engine, tiny: Path
) -> None:
    """The other sweeps are reported."""
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    output = report("--baseline", "ln")
    assert "fixed_firm: test accuracy" in output
    assert "tiny: test accuracy" not in output
    assert "left out: --baseline ln: sweep tiny has no such column: it has " in output


def test_a_long_latex_table_has_parts_and_labels_are_unique() -> None:
    """A page has 32 rows at most. The sweeps exp_1 and exp-1 have different labels."""
    rows = [trial("bn", seed, 0.5, alpha=float(alpha)) for alpha in range(1, 34) for seed in (0, 1)]
    summaries = [(summarize(name, rows), ReportOptions()) for name in ("exp_1", "exp-1")]
    text = document(summaries)
    labels = re.findall(r"\\label{(.*?)}", text)
    assert labels == [
        "tab:exp-1-test-accuracy",
        "tab:exp-1-test-accuracy-part-2",
        "tab:exp-1-test-accuracy-2",
        "tab:exp-1-test-accuracy-2-part-2",
    ]
    assert [part.count("pm") - 1 for part in text.split(r"\midrule")[1:3]] == [32, 1]
    assert text.count("(part 2)") == 2


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_every_format_follows_links_keeps_modes_and_writes_to_pipes(
    report: Report, tmp_path: Path
) -> None:
    """A pipe gets the bytes of the file, except for formats with a date."""
    folder = tmp_path / "out"
    folder.mkdir()
    for kind in ("table", "markdown", "csv", "json", "latex", "html", "parquet", "xlsx"):
        target, link, pipe = (folder / f"{kind}.{name}" for name in ("target", "link", "pipe"))
        target.write_bytes(b"old")
        target.chmod(0o640)
        link.symlink_to(target.name)
        os.mkfifo(pipe)
        contents: list[bytes] = []
        listener = Thread(
            target=lambda pipe=pipe, contents=contents: contents.append(pipe.read_bytes())
        )
        listener.start()
        report("--format", kind, "--output", str(pipe))
        listener.join()
        report("--format", kind, "--output", str(link))
        assert link.is_symlink()
        assert pipe.is_fifo()
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        if kind in ("html", "xlsx"):
            assert len(contents[0]) == pytest.approx(target.stat().st_size, abs=50)
        else:
            assert contents == [target.read_bytes()]
    assert len(list(folder.iterdir())) == 3 * 8


def test_figures_are_no_lines_of_a_report_on_stdout(
    drawn: tuple[Path, Result, Callable[[Path], Result]],
) -> None:
    """The JSON on stdout can be read; the names of the files are on stderr."""
    done = drawn[1]
    assert len(json.loads(done.stdout)) == 16
    assert len(done.stderr.splitlines()) == 20
