"""The text of a plan that was given as a dictionary: TOML, as in a file.

The standard library reads TOML, but does not write it. A plan needs only a few of its forms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


class NoToml(ValueError):
    """A value has no form in TOML."""


def toml_text(document: Mapping[str, Any]) -> str:
    """Return a dictionary as TOML: simple keys first, then tables and arrays of tables.

    Raises:
        NoToml: a key is no text, or a value has no form in TOML; the message names it.

    """
    lines, tables = [], []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{_key(key)}]", *_pairs(value)]
        elif _is_array_of_tables(value):
            for table in value:
                tables += ["", f"[[{_key(key)}]]", *_pairs(table)]
        else:
            lines += _pairs({key: value})
    return "\n".join([*lines, *tables]).lstrip("\n") + "\n"


def _is_array_of_tables(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(part, Mapping) for part in value)
    )


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(key, value)}" for key, value in table.items()]


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise NoToml(f"the key {key!r} is no text")
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key)


def _value(key: object, value: object) -> str:
    """Return a value as TOML. JSON writes texts, whole numbers and truth values in the same way."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(key, part)}" for name, part in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, (str, bool, int)):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if hasattr(value, "tolist"):  # a number or an array of NumPy or pandas
        return _value(key, value.tolist())
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, (Sequence, range)):
        return f"[{', '.join(_value(key, part) for part in value)}]"
    raise NoToml(f"{key} = {value!r} is no text, number, truth value, list or dictionary")
