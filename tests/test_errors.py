"""What an error says, and what it never says."""

from __future__ import annotations

import pytest

from fedsweep import errors
from fedsweep.states import RETRIED, TRANSITIONS, FailureKind, TrialState


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://u:hunter2@h/n refused", "hunter2"),
        ("postgresql+psycopg://u:p@ss:w@h:5/n", "p@ss:w"),
        ("postgresql://h/n?user=u&password=hunter2&x=1", "hunter2"),
        ("token=abc123 is wrong", "abc123"),
        ("postgresql://h/n?sslpassword=hunter2", "hunter2"),
    ],
)
def test_secrets_never_reach_a_message(text: str, hidden: str) -> None:
    """Neither in a URL nor as a key."""
    message = str(errors.StoreError(text))
    assert hidden not in message
    assert "***" in message


def test_a_class_s_docstring_is_its_default_message() -> None:
    """And a wrong request exits with 2."""
    assert str(errors.SchemaOld()) == errors.SchemaOld.__doc__
    assert errors.SchemaOld.exit_code == 2
    assert errors.LeaseLost.exit_code == 1


def test_every_error_stands_in_the_tree() -> None:
    """The drawing at the top names them all."""
    named = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in named)


def test_only_a_finished_trial_is_final() -> None:
    """Every other state can be left; only running ends in a result."""
    assert [state for state, then in TRANSITIONS.items() if not then] == [TrialState.FINISHED]
    before = {state for state, then in TRANSITIONS.items() if TrialState.FINISHED in then}
    assert before == {TrialState.RUNNING}
    assert FailureKind.DIVERGED not in RETRIED
