"""Pruning of probes that cannot win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.plans import Round
from fedsweep.search.choice import Space, estimate
from fedsweep.search.planner import history_of, next_choice, plan_next, prune, space_of
from fedsweep.search.pruning import HopelessProbe, ProbeCurves, hopeless_probes
from fedsweep.store import arms, attempt_rows, round_rows
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.unit.search.replay import RECORDINGS, Recording, pruned
from tests.unit.search.searches import PLAN, claimed, grid_done, of, plan, points, the_arm

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]


def curve(start: float, step: float, until: int = 20) -> dict[int, float]:
    return {round: start + step * round for round in range(1, until + 1)}


def done(point: int, *levels: float) -> ProbeCurves:
    return ProbeCurves(point, {s: curve(level, 0.01) for s, level in enumerate(levels)}, False)


def running(point: int, until: int, *levels: float) -> ProbeCurves:
    curves = {s: curve(level, 0.01, until) for s, level in enumerate(levels)}
    return ProbeCurves(point, curves, True)


THREE = [done(20, 0.3, 0.4), done(10, 0.5, 0.6), done(16, 0.4, 0.5)]


def test_a_probe_below_the_median_of_three_is_pruned() -> None:
    """The others are compared on its seeds and at its round. A probe at the median is kept."""
    low, level = running(4, 10, 0.3, 0.49), running(4, 10, 0.4, 0.5)
    assert hopeless_probes("median", 20, [*THREE, low]) == [
        HopelessProbe(4, 10, "49.50 % in round 10, below the median 55.00 % of others")
    ]
    assert hopeless_probes("median", 20, [*THREE, level]) == []
    assert hopeless_probes("median", 20, [*THREE[:2], low]) == []


def test_a_probe_is_not_pruned_soon_after_its_freeze_or_at_the_end() -> None:
    """A tail from 4 to 20 can be pruned from round 8."""
    for until in range(1, 21):
        hopeless = hopeless_probes("median", 20, [*THREE, running(4, until, 0.0, 0.0)])
        assert bool(hopeless) is (8 <= until < 20)


def test_a_signed_rank_test_needs_four_seeds_that_agree() -> None:
    """The test is one-sided against the best probe: p = 1/16 for four seeds, 1/8 for three."""
    best = done(10, 0.5, 0.6, 0.55, 0.58)
    low = [0.4, 0.58, 0.5, 0.51]
    (hopeless,) = hopeless_probes("wilcoxon", 20, [best, done(20, *low), running(4, 10, *low)])
    assert "p = 0.062" in hopeless.why
    assert "below T* = 10" in hopeless.why
    assert hopeless_probes("wilcoxon", 20, [best, running(4, 10, *low[:3])]) == []
    assert hopeless_probes("wilcoxon", 20, [best, running(4, 10, 0.4, 0.7, 0.5, 0.51)]) == []
    assert hopeless_probes("wilcoxon", 20, [best, running(4, 10, 0.5, 0.6, 0.55, 0.58)]) == []


def test_by_default_no_probe_is_pruned() -> None:
    """Its values do not matter."""
    assert hopeless_probes("none", 20, [*THREE, running(4, 15, 0.0, 0.0)]) == []


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
@pytest.mark.parametrize("rule", ["median", "wilcoxon"])
def test_a_rule_saves_rounds_on_recorded_curves_without_pruning_a_winner(
    rule: str, recording: Recording
) -> None:
    """It saves a part of the tails, and prunes no probe that is better by more than noise."""
    result = pruned(recording, rule)
    assert result.probes == 8 * len(recording.arms)
    assert 0 < result.given_up < result.probes
    assert 0 < result.rounds < result.tails
    assert result.winners == 0


def stored(store: Engine, values: Sequence[float], *, finish: bool) -> None:
    """Claim a trial, and store a validation accuracy for each round. Leave it running if asked."""
    claim = claimed(store)
    assert claim is not None
    with transaction(store) as c:
        now = read_clock(c)
        queue.renew(c, claim, now)
        more = {"numerics_id": "n", "numerics": {"torch": "2"}, "data_fingerprint": "f"}
        attempt_rows.start_attempt(c, claim, **more)
        rows = [
            Round(n, "calibrate", 1.0, 1.0, v, 1.0, v, 1, 1, 0.1) for n, v in enumerate(values, 1)
        ]
        assert round_rows.add_rounds(c, claim, rows) is None
        if finish:
            queue.finish(c, claim)


def test_a_pruned_probe_is_cancelled_and_never_the_best(store: Engine, tmp_path: Path) -> None:
    """Its trials have the reason, and its value is that of the round. The search continues."""
    text = PLAN.replace("probes_per_arm = 5", 'probes_per_arm = 6\nprune = "median"')
    text = text.replace('"bn", "gn", "fixbn"', '"fixbn"')
    plan(store, of(tmp_path, text))
    for level in (0.5, 0.6, 0.7):
        assert plan_next(store)
        for _ in range(2):
            stored(store, [level] * 10, finish=True)
    assert plan_next(store)
    assert prune(store) == 0
    for _ in range(2):
        stored(store, [0.8] * 7 + [0.1] * 2, finish=False)
    fourth = points(store)[3]
    assert prune(store) == 1
    assert prune(store) == 0
    with reading(store) as c:
        query = sa.select(trials.c.state, trials.c.error).where(trials.c.freeze_round == fourth)
        cancelled = c.execute(query).all()
        arm = the_arm(store)
        history = history_of(arms.tried(c, arm))
        given_up = {p.number: p.pruned_at for p in arms.proposals_of(c, arm.key)}
        choice = next_choice(c, arm)
    assert {row.state for row in cancelled} == {"cancelled"}
    assert all("given up: 10.00 % in round 9" in row.error for row in cancelled)
    assert given_up[4] == 9
    assert history[3].pruned
    assert history[3].values == {0: 0.1, 1: 0.1}
    assert getattr(choice, "freeze_round", None) != fourth
    best = estimate(_space(store), history).freeze_round
    assert best == points(store)[2]
    grid_done(store)
    assert integrity.faults(store) == []


def _space(store: Engine) -> Space:
    with reading(store) as c:
        arm = the_arm(store)
        return space_of(c, arm, history_of(arms.tried(c, arm)))
