"""`python -m reference` writes the pages. With `--check`, it only compares them."""

from __future__ import annotations

import argparse
import sys

from reference import pages, study


def main() -> int:
    """Write or compare the pages; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="Compare the pages, and write none.")
    if not parser.parse_args().check:
        pages.write()
        study.write()
        return 0
    found = [*map(pages.problem, pages.PAGES), study.problem()]
    problems = [text for text in found if text is not None]
    for text in problems:
        print(text, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
