"""The changes to a project's root URLconf."""

from __future__ import annotations

import ast
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.urls import Resolver404, get_resolver, resolve

from streams.installation.project import Project, definition
from streams.installation.source import CannotChange, SourceFile


def has_streams(patterns: Iterable[Any] | None = None) -> bool:
    """Return True if the site's URLs include those of Streams, at any depth."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if getattr(pattern, "app_name", None) == "streams":
            return True
        if hasattr(pattern, "url_patterns") and has_streams(pattern.url_patterns):
            return True
    return False


def add_urls(project: Project, prefix: str) -> None:
    file = project.module(settings.ROOT_URLCONF)
    found = definition(file, "urlpatterns")
    if found is None:
        raise CannotChange(f"{file.path.name} does not define urlpatterns at its top level")
    entry, value = f'path("{prefix}", include("streams.urls"))', found.value
    is_first = _is_shadowed(prefix)
    if isinstance(value, ast.List | ast.Tuple) and value.elts:
        if is_first:
            file.add_first(value.elts, value, entry)
        else:
            file.add_last(value.elts, value, entry)
    else:
        line = f"urlpatterns = [{entry}, *urlpatterns]\n" if is_first else f"urlpatterns = [*urlpatterns, {entry}]\n"
        file.insert_after_statement(found.statement, line)
    _import_names(file)


def _is_shadowed(prefix: str) -> bool:
    """Return True if a pattern that matches every URL comes before the end of the URLconf.

    Raises:
        CannotChange: The site has pages below the prefix.
    """
    views = [view for path in (prefix, f"{prefix}news/") if (view := _view(f"/{path}")) is not None]
    catching = [_view(f"/{secrets.token_hex(8)}/"), _view(f"/{secrets.token_hex(8)}/{secrets.token_hex(8)}/")]
    if taken := [view for view in views if view not in catching]:
        raise CannotChange(f"/{prefix} leads to {taken[0]!r} already; choose another URL with --prefix")
    return bool(views)


def _view(path: str) -> Callable[..., Any] | None:
    try:
        return resolve(path).func
    except Resolver404:
        return None


def _import_names(file: SourceFile) -> None:
    """Import `path` and `include`."""
    imports = [node for node in file.tree.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    if missing := sorted({"include", "path"} - names):
        for node in imports:
            if node.module == "django.urls" and node.level == 0:
                file.insert_before(node.names[0], f"{', '.join(missing)}, ")
                return
        statements = [node for node in file.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        docstring = file.tree.body[:1] if ast.get_docstring(file.tree) is not None else []
        last = [*docstring, *statements][-1:]
        file.insert_after_statement(last[0] if last else None, f"from django.urls import {', '.join(missing)}\n")
