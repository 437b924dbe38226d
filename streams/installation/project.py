"""The files of the site's project: find the ones that define its settings, change them together, or not at all."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from streams.installation.source import CannotChange, SourceFile


class Definition(NamedTuple):
    """The statement that defines a setting or a variable, with its file."""

    file: SourceFile
    statement: ast.stmt
    value: ast.expr


class Project:
    """The project whose settings Django has loaded."""

    def __init__(self) -> None:
        self._files: dict[Path, SourceFile] = {}

    # --- Finding ---

    def file(self, path: Path) -> SourceFile:
        path = path.resolve()
        if path not in self._files:
            self._files[path] = SourceFile(path)
        return self._files[path]

    def module(self, name: str) -> SourceFile:
        path = _path(name)
        if path is None:
            raise CannotChange(f"the module {name} has no file")
        return self.file(path)

    def setting(self, name: str) -> Definition:
        """Return the definition of a setting, also if it is in a module that the settings import.

        Raises:
            CannotChange: No statement at the top level of a file defines it.
        """
        reasons = [f"no file was found that defines {name} at its top level"]
        found = self._search(str(settings.SETTINGS_MODULE), name, set(), reasons)
        if found is None:
            raise CannotChange(reasons[-1])
        return found

    def _search(self, module: str, name: str, seen: set[str], reasons: list[str]) -> Definition | None:
        """Search a module and those that it imports. `reasons` collects why a file that exists cannot be changed."""
        path = _path(module)
        if module in seen or path is None:
            return None
        seen.add(module)
        try:
            file = self.file(path)
        except CannotChange as reason:
            reasons.append(f"{path.name} cannot be changed, because {reason}")
            return None
        if found := definition(file, name):
            return found
        for imported in reversed(list(_imported(file.tree, module, name))):
            if found := self._search(imported, name, seen, reasons):
                return found
        return None

    # --- Changing ---

    def changed(self) -> list[SourceFile]:
        return sorted((file for file in self._files.values() if file.is_changed()), key=lambda file: file.path)

    def write(self) -> None:
        """Write all changed files. If the project does not work with them, restore them.

        Raises:
            CannotChange: The project's checks fail with the changes. The text contains their output.
        """
        contents = {file: file.after() for file in self.changed()}
        try:
            for file, content in contents.items():
                file.path.write_bytes(content)
            problem = _problem()
        except BaseException:
            _restore(contents)
            raise
        if problem:
            _restore(contents)
            raise CannotChange(f"the project's checks fail with the changes, so that no file was changed:\n{problem}")


def definition(file: SourceFile, name: str) -> Definition | None:
    """Return the last statement at a file's top level that sets a variable without using its old value."""
    assigned = file.assignments(name)
    if not assigned or assigned[-1].value is None:
        return None
    return Definition(file, assigned[-1], assigned[-1].value)


def _path(module: str) -> Path | None:
    with contextlib.suppress(ImportError, ValueError):  # also those of a package that contains the module
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            return Path(spec.origin)
    return None


def _imported(tree: ast.Module, module: str, name: str) -> Iterator[str]:
    """Yield the modules from which a module imports everything, or this name."""
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None  # type: ignore[union-attr]
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name in ("*", name) for alias in node.names):
            with contextlib.suppress(ImportError):  # more dots than packages
                yield importlib.util.resolve_name("." * node.level + (node.module or ""), package)


VERIFY = """
from django.conf import settings
from django.core.management import execute_from_command_line
from django.utils.module_loading import import_string
execute_from_command_line(["manage.py", "check"])
if hasattr(settings, "ASGI_APPLICATION"):
    import_string(settings.ASGI_APPLICATION)
"""


def _problem() -> str:
    """Return the errors of the project's checks, in a new process because this one has the old settings."""
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": str(settings.SETTINGS_MODULE),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    done = subprocess.run([sys.executable, "-c", VERIFY], env=env, capture_output=True, text=True)  # noqa: S603
    return done.stderr if done.returncode else ""


def _restore(files: dict[SourceFile, bytes]) -> None:
    for file in files:
        if file.before is None:
            file.path.unlink(missing_ok=True)
        else:
            file.path.write_bytes(file.before)
