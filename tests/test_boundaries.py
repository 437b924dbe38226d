"""Only one part of the package writes each table, and only `streams.private` uses internals of other libraries."""

from __future__ import annotations

import ast
import re

from tests.support.source import MODULES, part_of, trees

# --- Writing the tables -----------------------------------------------------------------------------------------------

SYNC_WRITES = ["save", "create", "bulk_create", "get_or_create", "update_or_create", "update", "bulk_update", "delete"]
WRITES = {*SYNC_WRITES, *(f"a{name}" for name in SYNC_WRITES), "raw", "execute", "executemany"}

# The parts that write each table.
WRITERS = {
    "Message": "log",
    "LogHead": "log",
    "LogSize": "log",
    "Channel": "log",
    "Epoch": "log",
    "Lease": "log",
    "Node": "presence",
    "Broadcast": "broadcasts",
    "Delivery": "broadcasts",
    "RevokedToken": "tokens",
}


def writes(name: str) -> bool:
    """Return True if a module calls a method that can write to a table."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES
        for node in ast.walk(trees()[name])
    )


def models_of(name: str) -> set[str]:
    """Return the names of the models that a module imports."""
    return {
        alias.name
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streams.models")
        for alias in node.names
    }


def test_each_table_is_written_by_one_part() -> None:
    writing = {name: models_of(name) & WRITERS.keys() for name in MODULES if writes(name) and part_of(name) != "models"}
    wrong = {name: {m for m in found if WRITERS[m] != part_of(name)} for name, found in writing.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert {part_of(name) for name, found in writing.items() if found} == set(WRITERS.values())


def test_only_the_log_names_its_tables_in_sql() -> None:
    tables = ("streams_message ", "streams_loghead", "streams_channel ")
    naming = {
        part_of(name)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and any(t in node.value for t in tables)
    }
    assert naming == {"log"}


# --- Internals of other libraries -------------------------------------------------------------------------------------

# Internal names without an underscore.
UNDOCUMENTED = {
    "atomic_blocks",
    "context_to_thread_executor",
    "loop_thread_executors",
    "run_on_commit",
    "savepoint_ids",
    "single_thread_executor",
    "thread_sensitive_context",
}

# Documented names with an underscore.
DOCUMENTED = {"_base_manager", "_default_manager", "_meta", "_replace", "_request"}

# The internals of drf-spectacular are also in one module, which belongs to the integration that needs them.
ALLOWED = {
    "streams.api.openapi.schema": {"_get_api_endpoints", "_map_serializer"},
}


def own_names() -> set[str]:
    """Return the private names that the package defines: functions, classes, variables and attributes of `self`."""
    names = set()
    for name, tree in trees().items():
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
    """Return the names in a module's code that belong to the internals of another library."""
    found = set()
    for node in ast.walk(trees()[name]):
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
    """The internals of each library are used in one module of `streams.private`, which handles missing ones."""
    own = own_names()
    using = {name: internals(name, own) for name in MODULES}
    assert {"SyncToAsync", "context_to_thread_executor", "_executor"} <= using["streams.private.asgiref"]
    assert {"_from_testcase", "run_on_commit", "_wrapped", "_thread_ident"} <= using["streams.private.django"]
    elsewhere = {name: found for name, found in using.items() if not name.startswith("streams.private")}
    assert {name: left for name, found in elsewhere.items() if (left := found - ALLOWED.get(name, set()))} == {}


def test_cached_users_are_named_in_one_place() -> None:
    """The code mostly uses Django's names for them as strings."""
    texts = {"_cached_user", "_acached_user", "_handler_class", "_wrapped"}
    naming = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and node.value in texts)
        or (isinstance(node, ast.FunctionDef) and node.name in texts)
    }
    assert naming == {"streams.private.django"}


FORKS_AND_TESTS = {
    "in_test_run": "streams.runtime.test_run",
    "in_tests_transaction": "streams.runtime.test_run",
    "register_at_fork": "streams.runtime.resets",
    "setting_changed": "streams.runtime.resets",
}


def test_test_runs_forks_and_settings_are_known_in_one_place() -> None:
    """Other modules call functions of `test_run`, and register their resets in `resets`."""
    using: dict[str, set[str]] = {name: set() for name in FORKS_AND_TESTS}
    for module, tree in trees().items():
        for node in ast.walk(tree):
            for name in {getattr(node, key, "") for key in ("id", "attr", "name")} & using.keys():
                if not isinstance(node, ast.FunctionDef):
                    using[name].add(module)
    assert using == {name: {module} for name, module in FORKS_AND_TESTS.items()}
