"""The code blocks of the documents run: Python, templates, JavaScript and JSON. Commands are in tests/system."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import connection
from django.db.utils import ConnectionHandler
from django.template import RequestContext, engines
from django.test import RequestFactory, override_settings
from django.urls import get_resolver
from django.utils.module_loading import import_string

from tests.docs.snippets import ROOT, Snippet, documents, given, snippets
from tests.support.services import missing


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT / "docs"))


@pytest.fixture
def modules() -> Iterator[dict[str, types.ModuleType]]:
    """The modules that a document shows, by dotted name. They are removed after the test."""
    before = set(sys.modules)
    shown: dict[str, types.ModuleType] = {}
    yield shown
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {dotted.partition(".")[0] for dotted in shown}:
            del sys.modules[name]


@pytest.mark.django_db
@pytest.mark.parametrize("document", documents("python"), ids=name_of)
def test_python_runs(document: Path, modules: dict[str, types.ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a document's blocks one after the other, as a reader would who types them into one project."""
    names = given(document)
    for name, value in names.pop("environ", {}).items():
        monkeypatch.setenv(name, value)
    with override_settings():
        for snippet in snippets(document, "python"):
            if snippet.calls_a_site or snippet.needs_django > django.VERSION:
                continue
            try:
                run(snippet, names, modules)
            except Exception as error:
                raise AssertionError(f"{snippet.place} does not run: {error!r}\n\n{snippet.code}") from error


def run(snippet: Snippet, names: dict[str, Any], modules: dict[str, types.ModuleType]) -> None:
    if snippet.changes_the_process:
        program = f"import django\ndjango.setup()\n{snippet.code}"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif snippet.is_settings:
        use_settings(snippet)
    elif snippet.path.endswith(".py"):
        module = show_module(snippet.path.removesuffix(".py").replace("/", "."), modules)
        vars(module).update(names)
        execute(snippet, vars(module))
        names |= {name: value for name, value in vars(module).items() if not name.startswith("__")}
        if "urlpatterns" in vars(module):
            assert get_resolver(module.__name__).check() == []
    else:
        execute(snippet, names)


def show_module(dotted: str, modules: dict[str, types.ModuleType]) -> types.ModuleType:
    """Return a new module, with its packages, that later blocks can import."""
    parts = dotted.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name not in sys.modules:
            sys.modules[name] = modules[name] = types.ModuleType(name)
            modules[name].__path__ = []
        if end > 1:
            setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], sys.modules[name])
    modules.setdefault(dotted, sys.modules[dotted])
    return sys.modules[dotted]


def execute(snippet: Snippet, names: dict[str, Any]) -> None:
    code = compile(snippet.code, snippet.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def use_settings(snippet: Snippet) -> None:
    """Set what a block of settings sets, and let Django and Streams check it."""
    names = {
        "INSTALLED_APPS": list(settings.INSTALLED_APPS),
        "MIDDLEWARE": list(settings.MIDDLEWARE),
        "DATABASES": {"default": {}},
        "REST_FRAMEWORK": {},
    }
    before = copy.deepcopy(names)
    execute(snippet, names)
    changed = {name: value for name, value in names.items() if name.isupper() and before.get(name) != value}
    assert changed
    for app in changed.pop("INSTALLED_APPS", []):
        assert apps.is_installed(app) or import_string(f"{app}.__name__"), app
    for middleware in changed.get("MIDDLEWARE", []):
        import_string(middleware)
    connect(changed.pop("DATABASES", {}))
    for name, value in changed.items():
        setattr(settings, name, value)
    found = [each for each in checks.run_checks() if each.level >= checks.ERROR and each.id.startswith("streams")]
    assert found == []


def connect(databases: dict[str, Any]) -> None:
    """Open a connection to the test's database with the options of a document, if they are for this kind."""
    options = databases.get("default", {}).get("OPTIONS", {})
    if not options or ("init_command" in options) != (connection.vendor == "sqlite"):
        return
    handler = ConnectionHandler({"default": {**connection.settings_dict, "OPTIONS": options}})
    try:
        with handler["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        handler["default"].close()


@pytest.mark.django_db
@pytest.mark.parametrize("document", documents("html"), ids=name_of)
def test_templates_render(document: Path) -> None:
    for snippet in snippets(document, "html"):
        template = engines["django"].from_string(snippet.code).template
        request = RequestFactory().get("/")
        page = template.render(RequestContext(request, given(document)))
        assert "{%" not in page, snippet.place
        for attributes, script in re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL):
            if "importmap" in attributes:
                json.loads(script)
            else:
                check_script(script, snippet, module="module" in attributes)


@pytest.mark.once
@pytest.mark.parametrize("document", documents("js"), ids=name_of)
def test_scripts_compile(document: Path) -> None:
    for snippet in snippets(document, "js"):
        check_script(snippet.code, snippet, module=bool(re.search(r"^(import|export) |^await ", snippet.code, re.M)))


def check_script(script: str, snippet: Snippet, *, module: bool) -> None:
    if not shutil.which("node"):
        missing("node", "nodejs")
    kind = "module" if module else "commonjs"
    done = subprocess.run(
        ["node", "--check", f"--input-type={kind}", "-"], input=script, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{snippet.place}: {done.stderr}"


@pytest.mark.once
@pytest.mark.parametrize("document", documents("json"), ids=name_of)
def test_json_is_valid(document: Path) -> None:
    for snippet in snippets(document, "json"):
        json.loads(snippet.code)
