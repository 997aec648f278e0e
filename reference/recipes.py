"""The page on recipes: the named questions, with their SQL."""

from __future__ import annotations

from collections.abc import Iterator

from fedsweep.store.sql.recipes import Recipe, recipes
from reference.markdown import code, document, fence, prose, table


def page() -> str:
    """Return the page."""
    return document(
        "Recipes",
        "A recipe is a question with a name. Each is one SELECT over the [views](views.md), with "
        "the same text on SQLite and Postgres. `:sweep` is the name of a sweep, or NULL for all. "
        "Accuracies are fractions, 0 to 1, of the test set.",
        fence(
            "$ fedsweep sql --recipes\n"
            "$ fedsweep sql --recipe best-freeze-round --sweep digits\n"
            "$ fedsweep sql --recipe who-wins --show",
            "console",
        ),
        table(
            ["recipe", "answer"],
            ([f"[{code(one.name)}](#{one.name})", prose(one.about)] for one in recipes()),
        ),
        *(block for one in recipes() for block in _section(one)),
        sources=("fedsweep/store/sql/recipes/",),
    )


def _section(recipe: Recipe) -> Iterator[str]:
    statement = "\n".join(line for line in recipe.text.splitlines() if not line.startswith("--"))
    yield f"## {code(recipe.name)}"
    yield prose(recipe.about)
    yield fence(f"$ fedsweep sql --recipe {recipe.name}", "console")
    yield fence(statement.strip(), "sql")
