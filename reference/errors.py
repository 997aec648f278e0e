"""The page on errors: the tree of classes, the messages, the remedies."""

from __future__ import annotations

from collections.abc import Iterator

from fedsweep.errors import EXIT_CODES, FedsweepError
from reference.markdown import code, document, fence, prose, table


def page() -> str:
    """Return the page."""
    return document(
        "Errors",
        "A command that fails prints `fedsweep:` and one sentence on stderr, and ends with the "
        "exit code of the error's class. Functions of the [Python interface](python.md) raise the "
        "class. The sentence says what is wrong, then what to do. The table has the sentence of an "
        "error that knows nothing more specific.",
        table(["error", "exit code", "message", "remedy"], (_row(kind) for kind in _all())),
        "## The tree of classes",
        fence("\n".join(_tree(FedsweepError))),
        "## Exit codes",
        "[Commands](commands.md#exit-codes) has the meaning of each: "
        f"{', '.join(map(str, EXIT_CODES))}.",
        sources=("fedsweep/errors.py",),
    )


def children(kind: type[FedsweepError]) -> list[type[FedsweepError]]:
    """Return the classes that derive from an error first, in the order of the file."""
    ours = [child for child in kind.__subclasses__() if child.__module__ == "fedsweep.errors"]
    return [child for child in ours if child.__bases__[0] is kind]


def _all(kind: type[FedsweepError] = FedsweepError) -> Iterator[type[FedsweepError]]:
    yield kind
    for child in children(kind):
        yield from _all(child)


def parts(kind: type[FedsweepError]) -> tuple[str, str]:
    """Return the default message of an error, and its remedy."""
    message, _colon, remedy = (kind.__doc__ or "").partition(": ")
    return message, remedy


def _row(kind: type[FedsweepError]) -> list[str]:
    message, remedy = parts(kind)
    return [code(kind.__name__), str(kind.exit_code), prose(message), prose(remedy)]


def _tree(kind: type[FedsweepError], indent: str = "") -> Iterator[str]:
    others = [base.__name__ for base in kind.__bases__[1:]]
    yield f"{indent}{kind.__name__}{f', also {others[0]}' if others else ''}"
    for child in children(kind):
        yield from _tree(child, f"{indent}    ")
