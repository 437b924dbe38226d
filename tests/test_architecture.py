"""The shape of the package, read from its import statements: who may know of whom, and who writes the log."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sites import PYTHON, ROOT

PACKAGE = ROOT / "streams"

# They import the core; the core never imports them.
INTEGRATIONS = ("admin", "api", "relay", "management", "templatetags", "testing")

REST = ("rest_framework", "drf_spectacular")

# They are about to be sent, or have been: no I/O, and so neither the ORM nor an event loop.
VOCABULARY = ("exceptions", "conf", "events", "json_bodies", "sse")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str, tree: ast.AST, *, is_package: bool) -> Iterator[str]:
    """The modules that a module's import statements name, wherever they stand, those for type checkers too.

    `from streams import log` names `streams.log`; `from streams import Event` names `streams`, and so, by what that
    imports for type checkers, all that it would load.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            base = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])] if node.level else []
            module = ".".join(base) or node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in MODULES else module


GRAPH = {
    name: set(imports(name, tree, is_package=MODULES[name].name == "__init__.py")) - {name}
    for name, tree in TREES.items()
}


def reached(start: str) -> dict[str, list[str]]:
    """All modules that are loaded with `start`, each with the shortest way to it."""
    ways = {start: [start]}
    queue = [start]
    for module in queue:
        for following in sorted(GRAPH.get(module, ())):
            if following not in ways:
                ways[following] = [*ways[module], following]
                queue.append(following)
    return ways


def is_integration(module: str) -> bool:
    parts = module.split(".")
    return parts[0] in ("project", "tests") or (parts[0] == "streams" and len(parts) > 1 and parts[1] in INTEGRATIONS)


CORE = [name for name in MODULES if not is_integration(name) and not name.startswith("streams.migrations")]


def test_the_import_statements_were_found() -> None:
    """Were they not, everything below would be true of nothing."""
    assert "streams.log" in GRAPH["streams.hub"]
    assert "streams.sse" in GRAPH["streams.notifiers.base"]
    assert "streams.notifiers.base" in GRAPH["streams.notifiers"]
    assert "streams.publishing" in GRAPH["streams"], "also those for type checkers"
    assert "streams.threads" in GRAPH["streams.checks"], "also those inside functions"
    assert len(CORE) > 15


@pytest.mark.parametrize(
    ("module", "other"), [("streams.publishing", "streams.hub"), ("streams.hub", "streams.publishing")]
)
def test_publishing_and_the_hub_meet_at_the_log_and_the_notifier_only(module: str, other: str) -> None:
    ways = reached(module)
    assert {"streams.log", "streams.notifiers"} <= ways.keys()
    assert other not in ways, " -> ".join(ways[other])


def test_core_has_no_import_circle() -> None:
    """Imports for type checkers count as well."""
    names = [name for name in CORE if name != "streams"]
    assert [name for name in names if any(name in reached(other) for other in GRAPH[name] & set(names))] == []


@pytest.mark.parametrize("module", CORE)
def test_core_never_imports_an_integration(module: str) -> None:
    ways = reached(module)
    assert [" -> ".join(way) for found, way in ways.items() if is_integration(found)] == []


def test_only_the_api_needs_django_rest_framework() -> None:
    """It is an extra: without it, everything else works."""
    needing = {name for name in MODULES if any(found.startswith(REST) for found in GRAPH[name])}
    assert needing
    assert {name for name in needing if not name.startswith("streams.api")} == set()
    outside = [name for name in MODULES if not name.startswith("streams.api")]
    assert [name for name in outside if any(found.startswith("streams.api") for found in GRAPH[name])] == []


def test_imports_within_the_api_go_one_way() -> None:
    order = ("urls", "views", "publishing", "openapi", "requests", "authentication", "errors", "negotiation")
    rank = {f"streams.api.{name}": number for number, name in enumerate(order)}

    def part(module: str) -> str:
        return ".".join(module.split(".")[:3])

    against = [
        f"{module} -> {found}"
        for module in MODULES
        if part(module) in rank
        for found in GRAPH[module]
        if part(found) in rank and part(module) != part(found) and rank[part(module)] > rank[part(found)]
    ]
    circles = [
        module for module in MODULES for found in GRAPH[module] if part(module) in rank and module in reached(found)
    ]
    assert (against, circles) == ([], [])


@pytest.mark.parametrize("module", CORE)
def test_core_imports_from_where_a_thing_is_and_not_from_the_public_names(module: str) -> None:
    """`from streams import publish` loads what it names at the first use, which the core must not lean on."""
    assert "streams" not in GRAPH[module]


def test_relay_imports_in_one_direction() -> None:
    relay = [name for name in MODULES if name.startswith("streams.relay.")]
    proxy = [name for name in relay if name.startswith("streams.relay.proxy.")]
    assert proxy
    generations = "streams.relay.generations"
    assert [name for name in proxy if any(found.startswith(generations) for found in reached(name))] == []
    circles = [name for name in relay if any(name in reached(found) for found in GRAPH[name])]
    assert circles == []


@pytest.mark.parametrize("module", [f"streams.{name}" for name in VOCABULARY])
def test_vocabulary_does_no_io(module: str) -> None:
    own = {found for found in reached(module) if found.startswith("streams")}
    assert own <= {f"streams.{name}" for name in VOCABULARY}
    doing = ("asyncio", "asgiref", "threading", "socket", "logging", "django.db", "django.http")
    named = {found for name in own for found in GRAPH[name]}
    assert [found for found in named if found.startswith(doing)] == []


def test_wire_format_needs_no_django() -> None:
    assert not [found for found in reached("streams.sse") if found.split(".")[0] in ("django", "asgiref")]


def test_notifiers_know_neither_the_log_nor_who_uses_them() -> None:
    """They carry hints. None of them is allowed to need the log's tables."""
    modules = [name for name in MODULES if name.startswith("streams.notifiers")]
    own = {found for module in modules for found in reached(module) if found.startswith("streams.")}
    known = {"streams.conf", "streams.databases", "streams.events", "streams.exceptions", "streams.sse"}
    known |= {"streams.private", "streams.private.django", "streams.runtime", "streams.runtime.resets"}
    assert {found for found in own if not found.startswith("streams.notifiers")} <= known


# --- Who writes the log -----------------------------------------------------------------------------------------------

SYNC_WRITES = ["save", "create", "bulk_create", "get_or_create", "update_or_create", "update", "bulk_update", "delete"]
WRITES = {*SYNC_WRITES, *(f"a{name}" for name in SYNC_WRITES), "raw", "execute", "executemany"}


def writing_calls(name: str) -> list[str]:
    """The calls in a module, as source, that may write to a table."""
    return [
        ast.unparse(node)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES
    ]


# They write tables of their own, and know the log's by its functions only.
OTHER_TABLES = {
    "streams.presence": {"Node"},
    "streams.broadcasts.lifecycle": {"Broadcast"},
    "streams.deliveries": {"Delivery"},
}


def models_of(name: str) -> set[str]:
    """The models that a module imports."""
    return {
        alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streams.models")
        for alias in node.names
    }


def test_only_the_log_writes_its_tables() -> None:
    """Read from all modules that know the tables."""
    knowing = [name for name in MODULES if models_of(name) & {"Message", "LogHead", "Channel", "Epoch"}]
    writers = {name: writing_calls(name) for name in knowing if writing_calls(name)}
    of_the_log = {name for name in writers if name.startswith("streams.log.")}
    assert of_the_log
    writers = {name: calls for name, calls in writers.items() if name not in of_the_log}
    assert writers == {}


@pytest.mark.parametrize("module", OTHER_TABLES)
def test_tables_that_are_not_the_logs_have_one_writer_as_well(module: str) -> None:
    assert models_of(module) == OTHER_TABLES[module]
    assert writing_calls(module)
    others = [name for name in MODULES if name != module and models_of(name) & OTHER_TABLES[module]]
    assert [name for name in others if writing_calls(name)] == []


def test_no_other_module_names_the_tables_in_sql() -> None:
    texts = {
        name: [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for name, tree in TREES.items()
        if not name.startswith("streams.migrations")
    }
    tables = ("streams_message ", "streams_loghead", "streams_channel ")
    naming = {name for name, found in texts.items() if any(table in text for text in found for table in tables)}
    assert {name for name in naming if not name.startswith("streams.log.")} == {"streams.survey"}
    assert [text for text in texts["streams.survey"] if re.search("INSERT|UPDATE|DELETE", text)] == []


# --- Internals of other libraries -------------------------------------------------------------------------------------

# Without an underscore, and internal all the same.
UNDOCUMENTED = {
    "atomic_blocks",
    "context_to_thread_executor",
    "loop_thread_executors",
    "run_on_commit",
    "single_thread_executor",
    "thread_sensitive_context",
}

# With an underscore, and documented all the same.
DOCUMENTED = {"_base_manager", "_default_manager", "_meta", "_request"}

# drf-spectacular's are in one module as well, of the integration that needs them.
ALLOWED = {
    "streams.api.openapi.schema": {"_get_api_endpoints", "_map_serializer"},
}


def own_names() -> set[str]:
    """The private names that the package itself defines: functions, classes, variables, and attributes of `self`."""
    names = set()
    for name, tree in TREES.items():
        if name.startswith("streams.private"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def internals(name: str, own: set[str]) -> set[str]:
    """The names in a module's code that belong to the internals of another library."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "getattr",
            "hasattr",
            "setattr",
            "delattr",
        ):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
        elif isinstance(node, ast.ImportFrom) and node.module == "asgiref.sync":
            found |= {alias.name for alias in node.names if alias.name in ("AsyncToSync", "SyncToAsync")}
    private = {each for each in found if isinstance(each, str) and re.fullmatch("_(?!_|streams_).+", each)}
    return (private - own - DOCUMENTED) | (found & (UNDOCUMENTED | {"AsyncToSync", "SyncToAsync"}))


def test_internals_of_other_libraries_are_in_one_place() -> None:
    """Each library's in one module of `streams.private`, with what happens if they are missing."""
    own = own_names()
    using = {name: internals(name, own) for name in MODULES}
    assert {"SyncToAsync", "context_to_thread_executor", "_executor"} <= using["streams.private.asgiref"]
    assert {"_from_testcase", "run_on_commit", "_wrapped", "_thread_ident"} <= using["streams.private.django"]
    elsewhere = {name: found for name, found in using.items() if not name.startswith("streams.private")}
    assert {name: left for name, found in elsewhere.items() if (left := found - ALLOWED.get(name, set()))} == {}


def test_cached_users_are_named_in_one_place() -> None:
    """Django's names for them are mostly used as text."""
    texts = {"_cached_user", "_acached_user", "_handler_class", "_wrapped"}
    naming = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and node.value in texts)
        or (isinstance(node, ast.FunctionDef) and node.name in texts)
    }
    assert naming == {"streams.private.django"}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("in_test_run", "streams.runtime.test_run"),
        ("in_tests_transaction", "streams.runtime.test_run"),
        ("register_at_fork", "streams.runtime.resets"),
        ("setting_changed", "streams.runtime.resets"),
    ],
)
def test_test_runs_forks_and_settings_are_known_in_one_place(name: str, module: str) -> None:
    """Other modules ask the strategy of `test_run`, and register what `resets` has to do."""
    named = (ast.Name, ast.Attribute, ast.alias)
    using = {
        other
        for other, tree in TREES.items()
        if other != "streams.private.django"  # which defines the two questions about tests
        for node in ast.walk(tree)
        if isinstance(node, named)
        and name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", ""))
    }
    assert using == {module}


# --- What loading costs, and what a reader finds ----------------------------------------------------------------------


def test_importing_streams_loads_no_models_and_needs_no_settings() -> None:
    code = "import sys, streams; print([name for name in sys.modules if name.split('.')[0] in ('django', 'streams')])"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env={}, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['streams']\n", "")


def test_events_can_be_imported_before_the_apps_are_ready() -> None:
    """So that a settings file, or another app's models, may use them."""
    code = "from streams import Event, NewMessage; print(Event('a').encode())"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env={}, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'data: a\\n\\n'\n", "")


def test_every_module_has_a_docstring() -> None:
    trees = {name: tree for name, tree in TREES.items() if ".migrations" not in name}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []
