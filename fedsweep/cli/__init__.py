"""The command line: each command parses, makes one call, and prints."""

from __future__ import annotations

import sys

from fedsweep import machine
from fedsweep.errors import FedsweepError


def main() -> None:
    """Run the command line; an error is one sentence on stderr, and an exit code."""
    from fedsweep.cli.app import app
    from fedsweep.cli.arguments import opened

    machine.settle_home()
    try:
        with opened:
            app(prog_name="fedsweep")
    except FedsweepError as error:
        print(f"fedsweep: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except (OSError, RuntimeError) as error:
        if (sentence := machine.fault(error)) is None:
            raise
        print(f"fedsweep: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
