"""Docstrings, read from source files without importing them.

Python keeps no docstring of an attribute, and an import of torch takes seconds.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))


def of_module(path: str) -> str:
    """Return the docstring of a file."""
    return ast.get_docstring(_tree(path)) or ""


def of_functions(path: str) -> dict[str, str]:
    """Return the docstrings of a file's functions and classes, by name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in _tree(path).body if isinstance(node, kinds)]
    return {node.name: ast.get_docstring(node) or "" for node in nodes}


def of_attributes(path: str, class_name: str) -> dict[str, str]:
    """Return the docstrings of a class's attributes, by name; "" for those that have none."""
    nodes = [node for node in _tree(path).body if isinstance(node, ast.ClassDef)]
    return _documented(next(node for node in nodes if node.name == class_name).body)


def of_names(path: str) -> dict[str, str]:
    """Return the docstrings of a file's constants, by name; "" for those that have none."""
    return _documented(_tree(path).body)


def _documented(body: list[ast.stmt]) -> dict[str, str]:
    documented: dict[str, str] = {}
    for place, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            target: ast.expr = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        else:
            continue
        if isinstance(target, ast.Name):
            documented[target.id] = _text(body[place + 1]) if place + 1 < len(body) else ""
    return documented


def _text(node: ast.stmt) -> str:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return ""
    value = node.value.value
    return inspect.cleandoc(value) if isinstance(value, str) else ""
