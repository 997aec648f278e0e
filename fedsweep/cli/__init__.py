"""The command line: each command parses, makes one call, and prints."""

from __future__ import annotations

import sys

from fedsweep import machine, output
from fedsweep.errors import FedsweepError, MachineError, ReaderGone, RequestError, StoreError


def main() -> None:
    """Run the command line; an error is one sentence on stderr, and an exit code."""
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
    """Return an error's sentence; one about the database names the setting that gave its URL."""
    from fedsweep.cli.arguments import as_given

    return as_given(str(error)) if isinstance(error, RequestError) else str(error)


def _refusal(error: Exception) -> str | None:
    """Return the sentence for an error of the database; None for any other error."""
    if "sqlalchemy" not in sys.modules:  # not imported for that: it takes long
        return None
    from fedsweep.store import driver_errors

    wrapped = driver_errors.wrapped(error)
    if wrapped is None or isinstance(error, UnicodeEncodeError):
        return None
    return driver_errors.refusal(wrapped)
