"""The page on environment variables."""

from __future__ import annotations

from fedsweep.settings import VARIABLES
from reference.markdown import code, document, prose, table


def page() -> str:
    """Return the page."""
    return document(
        "Environment variables",
        "An option of a command wins over its variable. White space around a value and a "
        "byte-order mark before it are removed. A blank value counts as not set.",
        "## Variables of fedsweep",
        _table(ours=True),
        "## Variables of other programs",
        "Those of libpq (`PG…`) and of the storage of a bucket (`AWS_…`, `GOOGLE_…`, `AZURE_…`, "
        "`FSSPEC_…`) keep their meaning. `fedsweep launch` passes them on to its workers.",
        _table(ours=False),
        sources=("fedsweep/settings.py",),
    )


def _table(*, ours: bool) -> str:
    return table(
        ["variable", "meaning", "if it is not set"],
        (
            [code(each.name), prose(each.meaning), prose(each.default)]
            for each in VARIABLES
            if each.ours is ours
        ),
    )
