"""The program: `fedsweep`, and `python -m fedsweep`."""

from __future__ import annotations

from fedsweep import interrupt

interrupt.watch()  # before all other imports, which take most of a command's first seconds


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly."""
    from fedsweep import cli

    interrupt.run(cli.main)


if __name__ == "__main__":
    main()
