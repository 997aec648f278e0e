"""The line that `fedsweep work` prints at the end of an attempt."""

from __future__ import annotations

import pytest

from fedsweep.actions.work import ended_line
from fedsweep.plans import TrainConfig
from fedsweep.states import Outcome
from fedsweep.store.claim import Claim
from fedsweep.store.progress import SweepProgress
from fedsweep.worker import Ended, Tally, WorkStatus

CONFIG = TrainConfig(
    dataset="digits", model="cnn", normalizer="bn", clients=4, rounds=3, local_steps=2,
    batch_size=8, lr=0.05, alpha=0.5, seed=0,
).model_dump(exclude_none=True)  # fmt: skip
PROGRESS = SweepProgress(
    sweep="s", queued=0, running=0, finished=1, failed=0, cancelled=0, rounds_done=3,
    rounds_total=3, seconds_left=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "error", "again", "text"),
    [
        (Outcome.FINISHED, None, None, "finished in 2s"),
        (
            Outcome.FAILED,
            "diverged: the loss is nan",
            None,
            "failed in 2s (diverged: the loss is nan)",
        ),
        (Outcome.FAILED, "error: OSError", 7.2, "failed, again in 7s (error: OSError)"),
        (None, None, None, "lost in 2s"),
    ],
)
def test_the_end_of_an_attempt_has_outcome_reason_and_retry_time(
    outcome: Outcome | None, error: str | None, again: float | None, text: str
) -> None:
    """All of it is on one line."""
    claim = Claim(1, "abcdef0123456789", 1, CONFIG, None, None, 0)
    ended = Ended(0, claim, outcome, None, 2.0, error, again)
    line = ended_line(WorkStatus([], [PROGRESS], Tally(), ended))
    assert line.startswith("abcdef01 bn ")
    assert line.endswith(f": {text}  [1/1, 0s left]")


def test_a_count_that_was_not_read_is_not_shown() -> None:
    """If the store does not answer at the end, the line does not have a count."""
    claim = Claim(1, "abcdef0123456789", 1, CONFIG, None, None, 0)
    ended = Ended(0, claim, Outcome.FINISHED, None, 2.0, None, None)
    assert ended_line(WorkStatus([], [], Tally(), ended)).endswith("finished in 2s")
