"""The recipes: their numbers on a study known by heart, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import NotFound
from fedsweep.store.schema import open_store
from fedsweep.store.sql import ask, limits
from fedsweep.store.sql.recipes import Recipe, recipe, recipes
from fedsweep.store.tables import arms, proposals
from fedsweep.store.transactions import transaction
from tests import study

NAMES = [recipe.name for recipe in recipes()]


@pytest.fixture
def filled(store: Engine, tmp_path: Path) -> Engine:
    """A store with the study."""
    study.fill(store, tmp_path)
    return store


def asked(store: Engine, name: str, sweep: str | None = "study") -> list[dict[str, Any]]:
    answer = ask.ask(store, recipe(name).text, {"sweep": sweep})
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def numbers(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """These columns, with floats to nine digits."""
    return [
        tuple(round(v, 9) if isinstance(v := row[name], float) else v for name in names)
        for row in rows
    ]


def test_the_best_freeze_round_has_its_margin_over_bn_and_gn(filled: Engine) -> None:
    """T* = 1: (0.84 + 0.72) / 2 = 0.78, against 0.70 and 0.68."""
    rows = asked(filled, "best-freeze-round")
    what = ("alpha", "local_steps", "momentum", "freeze_round", "mean", "n")
    assert numbers(rows, *what) == [(0.5, 2, "reset", 1, 0.78, 2)]
    assert rows[0]["std"] == pytest.approx(0.12 / 2**0.5)
    assert numbers(rows, "over_bn", "over_gn") == [(0.08, 0.1)]


def test_the_winner_of_each_setting_is_told_with_its_runner_up(filled: Engine) -> None:
    """With global momentum bn has 0.8, and gn the 0.75 of its one finished seed."""
    rows = asked(filled, "who-wins")
    what = ("momentum", "normalizer", "freeze_round", "mean", "runner_up", "margin")
    assert numbers(rows, *what) == [
        ("global", "bn", None, 0.8, "gn", 0.05),
        ("reset", "fixbn", 1, 0.78, "bn", 0.08),
    ]


def test_bn_and_gn_are_compared_seed_by_seed(filled: Engine) -> None:
    """Differences 0.1 and -0.06; a seed that only one of them has is no pair."""
    rows = asked(filled, "bn-minus-gn")
    what = ("momentum", "n", "bn", "gn", "bn_minus_gn", "least", "most", "bn_wins")
    assert numbers(rows, *what) == [
        ("global", 1, 0.9, 0.75, 0.15, 0.15, 0.15, 1),
        ("reset", 2, 0.7, 0.68, 0.02, -0.06, 0.1, 1),
    ]


def test_fixbn_is_compared_with_bn_seed_by_seed(filled: Engine) -> None:
    """T* = 1 gains 0.04 and 0.12, T* = 2 0.02 and 0.10."""
    rows = asked(filled, "fixbn-gain")
    what = ("freeze_round", "n", "fixbn", "bn", "gain", "least", "most", "fixbn_wins")
    assert numbers(rows, *what) == [
        (1, 2, 0.78, 0.7, 0.08, 0.04, 0.12, 2),
        (2, 2, 0.76, 0.7, 0.06, 0.02, 0.1, 2),
    ]


def test_accuracy_by_round_is_over_the_seeds_that_got_there(filled: Engine) -> None:
    """One seed of gn with global momentum diverged after its first round."""
    rows = [
        row
        for row in asked(filled, "accuracy-by-round")
        if (row["normalizer"], row["momentum"]) == ("gn", "global")
    ]
    what = ("round", "n", "mean", "lowest", "highest")
    assert numbers(rows, *what) == [
        (1, 2, 0.5, 0.4, 0.6),
        (2, 1, 0.7, 0.7, 0.7),
        (3, 1, 0.75, 0.75, 0.75),
    ]


def test_momentum_kept_across_rounds_is_compared_seed_by_seed(filled: Engine) -> None:
    """For bn 0.1 with both seeds; for gn 0.05 with the one that finished."""
    rows = asked(filled, "momentum-effect")
    what = ("normalizer", "reset", "n_local", "local_gain", "n_global", "global_gain")
    assert numbers(rows, *what) == [
        ("bn", 0.7, 0, None, 2, 0.1),
        ("gn", 0.7, 0, None, 1, 0.05),
    ]


def test_failures_are_counted_with_one_to_look_at(filled: Engine) -> None:
    """The one that diverged, in its second round."""
    rows = asked(filled, "failures")
    what = ("failure", "normalizer", "momentum", "n", "first_round", "last_round")
    assert numbers(rows, *what) == [("diverged", "gn", "global", 1, 1, 1)]
    (trial,) = ask.ask(filled, "SELECT trial_id FROM results WHERE state = 'failed'").rows
    assert rows[0]["example"] == trial[0]


def test_the_slowest_cells_come_first(filled: Engine) -> None:
    """Half a second a round is what gn takes; six rounds, and four where one diverged."""
    rows = asked(filled, "slowest-cells")
    found = sorted(numbers(rows[:2], "normalizer", "momentum", "rounds_trained", "seconds_a_round"))
    assert found == [("gn", "global", 4, 0.5), ("gn", "reset", 6, 0.5)]
    assert numbers(rows[2:], "seconds_a_round") == [(0.25,)] * 2 + [(0.125,)] * 2


def test_the_ledger_has_shares(filled: Engine) -> None:
    """34 rounds, 9.25 s of them bn's, gn's and fixbn's; nothing shared, nothing lost."""
    rows = asked(filled, "ledger")
    what = ("sweep", "rounds_trained", "rounds_shared", "rounds_lost", "share_saved", "share_lost")
    assert numbers(rows, *what) == [("study", 34, 0, 0, 0, 0)]
    assert rows[0]["hours_trained"] == pytest.approx((12 * 0.25 + 10 * 0.5 + 12 * 0.125) / 3600)


def test_rounds_to_target_are_those_of_the_first_time(filled: Engine) -> None:
    """With reset the target is 0.9 x 0.84 = 0.756; only T* = 1 reaches it before the end."""
    rows = [row for row in asked(filled, "rounds-to-target") if row["momentum"] == "reset"]
    what = ("normalizer", "freeze_round", "n", "n_reached", "mean_round", "earliest", "latest")
    assert numbers(rows, "target", *what) == [
        (0.756, "bn", None, 2, 1, 3, 3, 3),
        (0.756, "fixbn", 1, 2, 1, 2, 2, 2),
        (0.756, "fixbn", 2, 2, 1, 3, 3, 3),
        (0.756, "gn", None, 2, 0, None, None, None),
    ]


def test_the_least_stable_cells_come_first(filled: Engine) -> None:
    """The seeds of bn spread by 0.2 under both momenta. A cell of one finished seed has no
    spread.
    """
    rows = asked(filled, "unstable-seeds")
    assert {row["normalizer"] for row in rows[:2]} == {"bn"}
    assert numbers(rows, "spread") == [(0.2,), (0.2,), (0.12,), (0.12,), (0.04,)]
    assert {row["n"] for row in rows} == {2}


def test_searches_are_told_with_what_they_tried(filled: Engine) -> None:
    """Two proposals of 3 and 2 rounds, the second given up."""
    with transaction(filled) as connection:
        sweep = connection.execute(sa.text("SELECT id FROM sweeps")).scalar_one()
        arm = {"sweep": sweep, "arm_id": "abc", "config": "{}", "rivals": "[]", "settings": "{}"}
        arm |= {"seeds": "[0]", "ended": "settled", "said": "no more gain", "freeze_round": 1}
        connection.execute(sa.insert(arms).values(id=1, **arm))
        for number, cost, pruned_at in ((1, 3, None), (2, 2, 1)):
            tried = {"number": number, "cost": cost, "pruned_at": pruned_at, "why": "", "at": 0.0}
            connection.execute(sa.insert(proposals).values(arm=1, freeze_round=number, **tried))
    what = ("sweep", "arm_id", "freeze_round", "ended", "proposals", "rounds", "given_up", "said")
    assert numbers(asked(filled, "searches"), *what) == [
        ("study", "abc", 1, "settled", 2, 5, 1, "no more gain")
    ]


def test_both_databases_give_the_same_rows(
    sqlite_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Columns, order and values of every recipe, to the last digits."""
    answers = []
    for url in (sqlite_url, postgres_url):
        store = open_store(url)
        study.fill(store, tmp_path)
        answers.append({n: ask.ask(store, recipe(n).text, {"sweep": None}) for n in NAMES})
        store.dispose()
    for name in NAMES:
        one, other = (answer[name] for answer in answers)
        assert one.columns == other.columns
        assert len(one.rows) == len(other.rows)
        for mine, theirs in zip(one.rows, other.rows, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-12), name


HOSTILE = ["' OR '1' = '1", "study'; DROP TABLE rounds; --", ":sweep", "", "%s", "$1"]


def test_a_sweep_s_name_is_data(filled: Engine) -> None:
    """No sweep has this name, so no recipe returns a row."""
    for name in NAMES:
        assert [asked(filled, name, sweep) for sweep in HOSTILE] == [[]] * len(HOSTILE)
    assert ask.ask(filled, "SELECT count(*) FROM curves").rows == [(34,)]


def test_without_a_sweep_a_recipe_asks_of_all(filled: Engine) -> None:
    """The answer names each row's sweep."""
    assert asked(filled, "who-wins", None) == asked(filled, "who-wins")


@pytest.mark.parametrize("recipe", recipes(), ids=NAMES)
def test_a_recipe_says_in_one_sentence_what_it_answers(recipe: Recipe) -> None:
    """And nothing but a SELECT follows."""
    assert recipe.about.endswith(".")
    assert recipe.about.count(". ") == 0
    assert recipe.text.splitlines()[-1].strip() != ""
    assert ":sweep" in recipe.text


def test_a_misspelled_recipe_is_refused_with_the_nearest() -> None:
    """And where the list is."""
    with pytest.raises(NotFound, match=r"did you mean who-wins\? `fedsweep sql --recipes`"):
        recipe("who-win")


def test_a_parameter_is_known_from_what_looks_like_one(store: Engine) -> None:
    """In a string, a comment, a quoted name or a cast it is none."""
    text = """SELECT ':sweep' AS ":sweep", CAST(:sweep AS TEXT) AS b -- :sweep
        /* :sweep */ WHERE CAST(:sweep AS TEXT) = 'it''s :sweep'"""
    answer = ask.ask(store, text, {"sweep": "it's :sweep"})
    assert answer.columns == [":sweep", "b"]
    assert answer.rows == [(":sweep", "it's :sweep")]
    assert not limits.names("SELECT ':sweep' -- :sweep", "sweep")
