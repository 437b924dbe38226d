"""The changes to a project's asgi.py, or a new one."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from streams.installation.names import asgi_path
from streams.installation.project import Project
from streams.installation.source import CannotChange, SourceFile

NEW = '''"""The project's ASGI application, for servers such as daphne and uvicorn."""

import os

from streams.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")

{name} = get_asgi_application()
'''


def change(project: Project) -> Callable[[], None] | None:
    """Return the function that adds Streams to asgi.py, or None if it is there."""
    file = project.file(_location())
    if file.before is None:
        return lambda: file.append(NEW.format(settings=_settings_module(project), name=_name()))
    if b"streams.asgi" in file.before:
        return None
    modules = {node.module: node for node in ast.walk(file.tree) if isinstance(node, ast.ImportFrom)}
    return lambda: _import_from_streams(file, modules.get("django.core.asgi"))


def _import_from_streams(file: SourceFile, statement: ast.ImportFrom | None) -> None:
    if statement is None or [alias.name for alias in statement.names] != ["get_asgi_application"]:
        raise CannotChange(f"{file.path.name} does not import get_asgi_application from django.core.asgi")
    file.replace_once(statement, "django.core.asgi", "streams.asgi")


def _name() -> str:
    return asgi_path().rpartition(".")[2]


def _location() -> Path:
    """Return the path of asgi.py, which need not exist."""
    module = asgi_path().rpartition(".")[0]
    package, _, name = module.rpartition(".")
    if not package:
        return Path.cwd() / f"{name}.py"
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise CannotChange(f"the package {package} was not found")
    return Path(folders[0]) / f"{name}.py"


def _settings_module(project: Project) -> str:
    """Return the settings that wsgi.py uses, which are those of production, or the current ones."""
    path: str = getattr(settings, "WSGI_APPLICATION", None) or ""
    try:
        tree = project.module(path.rpartition(".")[0]).tree
    except CannotChange:
        return str(settings.SETTINGS_MODULE)
    return settings_module_in(tree) or str(settings.SETTINGS_MODULE)


def settings_module_in(tree: ast.Module) -> str | None:
    """Return the value in `os.environ.setdefault("DJANGO_SETTINGS_MODULE", "…")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 2:
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if len(values) == 2 and values[0] == "DJANGO_SETTINGS_MODULE":
                return str(values[1])
    return None
