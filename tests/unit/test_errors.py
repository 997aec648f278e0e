"""The messages of errors, and the tree of their classes."""

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
    """A secret is hidden in a URL and after its name."""
    message = str(errors.StoreError(text))
    assert hidden not in message
    assert "***" in message


def test_the_docstring_of_a_class_is_its_default_message() -> None:
    """A wrong request has exit code 2, and other errors have exit code 1."""
    assert str(errors.SchemaOld()) == errors.SchemaOld.__doc__
    assert errors.SchemaOld.exit_code == 2
    assert errors.LeaseLost.exit_code == 1


def test_every_error_is_in_the_tree() -> None:
    """The drawing at the top of the module names all classes."""
    named = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in named)


def test_only_a_finished_trial_is_final() -> None:
    """Every other state can change, and only a running trial can finish."""
    assert [state for state, then in TRANSITIONS.items() if not then] == [TrialState.FINISHED]
    before = {state for state, then in TRANSITIONS.items() if TrialState.FINISHED in then}
    assert before == {TrialState.RUNNING}
    assert FailureKind.DIVERGED not in RETRIED
