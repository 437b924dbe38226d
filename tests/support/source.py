"""The parsed source of the package `streams`: its modules and their imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from tests.support.sites import ROOT


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the file or package of `streams` that a module belongs to, or "" for `streams` and other packages."""
    return module.split(".")[1] if module.startswith("streams.") else ""


MODULES = {name_of(path): path for path in sorted((ROOT / "streams").rglob("*.py")) if path.parent.name != "migrations"}


# The next two are functions because they take a second, and few of the processes that import this module need them.
@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return {module: its syntax tree}."""
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@functools.cache
def graph() -> dict[str, set[str]]:
    """Return {module: the modules that it imports}."""
    return {name: set(imports(name, tree)) - {name} for name, tree in trees().items()}


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a module imports, including imports in functions and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def reached(start: str) -> dict[str, list[str]]:
    """Return {module: the shortest path of imports to it} for all modules that `start` loads."""
    paths = {start: [start]}
    queue = [start]
    for module in queue:
        for following in sorted(graph().get(module, ())):
            if following not in paths:
                paths[following] = [*paths[module], following]
                queue.append(following)
    return paths
