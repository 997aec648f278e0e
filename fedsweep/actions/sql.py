"""Answer SQL statements and recipes, without changing anything."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.store import sweep_rows
from fedsweep.store.sql import ask, limits, recipes
from fedsweep.store.sql.ask import Answer
from fedsweep.store.transactions import reading


def statement(select: str | None, recipe: str | None) -> str:
    """Return the statement to run: the given one, or that of a recipe.

    Raises:
        RequestError: There is neither a statement nor a recipe, or there are both.

    """
    if (select is None) == (recipe is None):
        raise RequestError(
            "give a SELECT or a --recipe, and not both: `fedsweep sql --recipes` lists them"
        )
    return select if select is not None else recipes.recipe(str(recipe)).text


def require_parameter(text: str, sweep: str | None) -> None:
    """Refuse a sweep for a statement that has no parameter :sweep.

    Raises:
        RequestError: The statement has none.

    """
    if sweep is not None and not limits.names(text, "sweep"):
        raise RequestError(
            "--sweep sets the parameter :sweep, which the statement does not have: leave it out"
        )


def answer(engine: Engine, text: str, sweep: str | None, *, limit: int, seconds: float) -> Answer:
    """Return the rows of a statement, at most `limit` of them.

    Raises:
        NotFound: There is no such sweep, so that the answer would be empty.
        SqlRefused: The statement does more than read, or reads for too long.

    """
    if sweep is not None:
        with reading(engine) as connection:
            sweep_rows.require_sweep(connection, sweep)
    return ask.ask(engine, text, {"sweep": sweep}, limit=limit, seconds=seconds)
