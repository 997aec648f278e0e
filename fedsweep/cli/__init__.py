"""The command line: each command parses its options, calls an action, and prints the result."""

from __future__ import annotations

import sys

from fedsweep import machine, output
from fedsweep.errors import FedsweepError, MachineError, ReaderGone, RequestError, StoreError


def main() -> None:
    """Run the command line. An error becomes one sentence on stderr and an exit code."""
    output.prepare()
    with output.visible_only():
        try:
            _run()
        except ReaderGone as error:
            raise SystemExit(error.exit_code) from None
        except FedsweepError as error:
            print(f"fedsweep: {_as_given(error)}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None


def _run() -> None:
    from fedsweep.cli.app import app
    from fedsweep.cli.arguments import opened

    machine.settle_home()
    try:
        with opened:
            app(prog_name="fedsweep")
    except SystemExit as ended:
        if not ended.code:
            output.check()
        raise
    except (OSError, RuntimeError) as error:
        if (sentence := machine.fault(error)) is None:
            raise
        raise MachineError(sentence) from error
    except Exception as error:
        if (sentence := _refusal(error)) is None:
            raise
        raise StoreError(sentence) from error


def _as_given(error: FedsweepError) -> str:
    """Return an error's message; one about the database names the option or variable of its URL."""
    from fedsweep.cli.arguments import as_given

    return as_given(str(error)) if isinstance(error, RequestError) else str(error)


def _refusal(error: Exception) -> str | None:
    """Return the message for an error of the database; None for any other error."""
    if "sqlalchemy" not in sys.modules:  # an import would take long
        return None
    from fedsweep.store import driver_errors

    wrapped = driver_errors.wrapped(error)
    if wrapped is None or isinstance(error, UnicodeEncodeError):
        return None
    return driver_errors.refusal(wrapped)
