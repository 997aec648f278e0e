"""The data of figures as CSV files."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.plans import SweepSpec, read_plan
from fedsweep.serve.csv_table import PIECE_ROWS, CsvTable, cell, csv_response, csv_text
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store import planning
from fedsweep.store.tables import trials
from fedsweep.store.transactions import transaction
from tests.acceptance.command import query
from tests.unit.serve import study
from tests.unit.serve.pages import HOSTILE, anonymous

pytestmark = pytest.mark.quick_on("sqlite")

PATHS = [
    "/csv/sweep/accuracy-by-round?sweep=study",
    "/csv/sweep/accuracy-by-freeze-round?sweep=study",
    "/csv/trial/accuracy?trial=a",
    "/csv/compare/loss?trial=a&trial=b",
]


@pytest.fixture
def studied(store: Engine, tmp_path: Path) -> Engine:
    study.fill(store, tmp_path)
    return store


def table(client: TestClient, path: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows of a CSV file."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    reader = csv.DictReader(io.StringIO(answer.text))
    rows = list(reader)
    return list(reader.fieldnames or ()), rows


def file_name(client: TestClient, path: str) -> str:
    return str(client.get(path).headers["content-disposition"])


def columns(url: str, view: str) -> set[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = set(connection.execute(sa.text(f"SELECT * FROM {view}")).keys())
    engine.dispose()
    return names


def test_the_curves_of_a_trial_are_those_of_the_view(
    client: TestClient, studied: Engine, store_url: str
) -> None:
    """The columns have the same names, and the numbers all digits."""
    (trial,) = study.ids(studied, normalizer="fixbn", freeze_round=3, alpha=0.1, seed=1)
    names, rows = table(client, f"/csv/trial/accuracy?trial={trial[:12]}")
    assert names == ["trial_id", "round", "test_accuracy", "validation_accuracy", "phase",
                     "inherited"]  # fmt: skip
    assert set(names) <= columns(store_url, "curves")
    expected = query(store_url, f"SELECT {', '.join(names)} FROM curves "
                     f"WHERE trial_id = '{trial}' ORDER BY round")  # fmt: skip
    assert [[row[n] for n in names] for row in rows] == [
        ["" if value is None else str(value) for value in row] for row in expected
    ]
    losses, _ = table(client, f"/csv/trial/loss?trial={trial}")
    assert losses[2:5] == ["train_loss", "test_loss", "validation_loss"]
    assert f"trial-{trial[:10]}-loss-by-round.csv" in file_name(
        client, f"/csv/trial/loss?trial={trial}"
    )


def test_the_figure_by_freeze_round_has_the_numbers_of_the_view_cells(
    client: TestClient, studied: Engine, store_url: str
) -> None:
    """The address chooses the panel. A level has no freeze_round."""
    panel = quote("α = 1, E = 2, momentum = reset")
    path = f"/csv/sweep/accuracy-by-freeze-round?sweep=study&panel={panel}"
    names, rows = table(client, path)
    assert set(names) <= columns(store_url, "cells")
    expected = query(store_url, "SELECT normalizer, freeze_round, n, mean_test_accuracy, "
                     "std_test_accuracy FROM cells WHERE alpha = 1")  # fmt: skip
    shown = {(r["normalizer"], r["freeze_round"]): r for r in rows}
    assert len(shown) == len(rows) == len(expected) == 4
    for normalizer, frozen, n, mean, std in expected:
        row = shown[normalizer, "" if frozen is None else str(frozen)]
        assert (row["alpha"], row["local_steps"], row["n"]) == ("1.0", "2", str(n))
        assert float(row["mean_test_accuracy"]) == pytest.approx(mean)
        assert float(row["std_test_accuracy"]) == pytest.approx(std)
    assert 'filename="study-accuracy-by-freeze-round.csv"' in file_name(client, path)


def test_the_figure_by_round_has_raw_means_of_all_rounds(
    client: TestClient, studied: Engine, store_url: str
) -> None:
    """Smoothing does not change them, and the choice of arms counts."""
    path = "/csv/sweep/accuracy-by-round?sweep=study&arm=BN&arm=FIXBN+T%E2%8B%86%3D6"
    names, rows = table(client, path)
    assert table(client, f"{path}&smooth=5")[1] == rows
    assert set(names) <= columns(store_url, "cells") | {"state", "round"}
    assert {(r["normalizer"], r["freeze_round"]) for r in rows} == {("bn", ""), ("fixbn", "6")}
    means = {
        (normalizer, str(number)): mean
        for normalizer, number, mean in query(
            store_url,
            "SELECT r.normalizer, c.round, avg(c.test_accuracy) FROM curves c JOIN results r "
            "ON r.trial_id = c.trial_id WHERE r.alpha = 0.1 AND (r.normalizer = 'bn' OR "
            "r.freeze_round = 6) GROUP BY r.normalizer, c.round",
        )
    }
    assert len(rows) == len(means) == 24
    for row in rows:
        mean = means[row["normalizer"], row["round"]]
        assert float(row["mean_test_accuracy"]) == pytest.approx(mean)
        assert (row["state"], row["n"]) == ("finished", "3")


def test_both_trials_are_in_one_file(client: TestClient, studied: Engine) -> None:
    """The first trial comes first."""
    pair = study.ids(studied, alpha=0.1, seed=0)[:2]
    _, rows = table(client, "/csv/compare/loss?trial={}&trial={}".format(*pair))
    assert [row["trial_id"] for row in rows] == [pair[0]] * 12 + [pair[1]] * 12


@pytest.mark.parametrize("path", PATHS)
def test_data_need_the_token(read_cache: ReadCache, path: str) -> None:
    """Without it, the answer has no data."""
    answer = anonymous(read_cache).get(path)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/csv/sweep/nothing?sweep=study", 404),
        ("/csv/nothing/accuracy", 404),
        ("/csv/sql/answer?q=SELECT+1", 404),
        ("/csv/sweep/accuracy-by-round?sweep=none", 404),
        ("/csv/sweep/accuracy-by-round", 404),
        ("/csv/trial/accuracy?trial=zz", 404),
        ("/csv/trial/accuracy", 404),
        ("/csv/compare/accuracy?trial=zz", 400),
        ("/csv/trial/accuracy/more", 404),
    ],
)
def test_data_that_do_not_exist_get_one_sentence(
    client: TestClient, studied: Engine, path: str, status: int
) -> None:
    """The answer is not a file."""
    answer = client.get(path, headers={"accept": "text/plain"})
    assert answer.status_code == status
    assert answer.text.count("\n") == 1
    assert "content-disposition" not in answer.headers


@pytest.mark.parametrize("figure", ["accuracy-by-round", "accuracy-by-freeze-round"])
@pytest.mark.parametrize("name", [HOSTILE, '=HYPERLINK("http://x")', "a\r\nset-cookie: b", "../é"])
def test_a_hostile_name_changes_neither_header_nor_formula(
    client: TestClient, store: Engine, tmp_path: Path, name: str, figure: str
) -> None:
    """The file has a safe name, and the name of the sweep is text in a spreadsheet."""
    file = tmp_path / "study.toml"
    file.write_text(study.PLAN)
    with transaction(store) as connection:
        plan = read_plan(file)
        planning.add_sweep(connection, SweepSpec(name, "", plan.trials))
        study.finish(connection, trials.c.seed == 0)
    path = f"/csv/sweep/{figure}?sweep={quote(name, safe='')}"
    header = file_name(client, path)
    assert re.fullmatch(r"attachment; filename(=\"[\w.-]+\"|\*=utf-8''[\w.%-]+)", header, re.ASCII)
    assert "set-cookie" not in client.get(path).headers
    _, rows = table(client, path)
    assert rows
    expected = f"'{name}" if name.startswith("=") else name
    assert {row["sweep"] for row in rows} == {expected}


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_is_never_a_formula(value: str) -> None:
    """A spreadsheet shows the text after an apostrophe."""
    assert cell(value) == f"'{value}"


@pytest.mark.parametrize("value", [-1, -0.5, None, "bn", "a=b", 1e-9])
def test_numbers_and_plain_texts_stay_as_they_are(value: Any) -> None:
    assert cell(value) is value


def test_a_long_table_is_sent_in_pieces() -> None:
    """Rows are made when they are sent."""
    made: list[int] = []

    def rows() -> Any:
        for number in range(PIECE_ROWS):
            made.append(number)
            yield (number,)

    pieces = csv_text(CsvTable("long", ["n"], rows()))
    first = next(pieces)
    assert first.startswith("n\n0\n")
    assert len(made) == PIECE_ROWS - 1
    assert "".join([first, *pieces]).count("\n") == PIECE_ROWS + 1


def test_a_file_name_beyond_ascii_is_encoded() -> None:
    """The name of a sweep may have any letters."""
    header = csv_response(CsvTable("müll", [], [])).headers["content-disposition"]
    assert header == "attachment; filename*=utf-8''m%C3%BCll.csv"
