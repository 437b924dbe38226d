"""The order of the package's parts, read from its import statements."""

from __future__ import annotations

import ast
import re
import subprocess

from tests.support.sites import PYTHON, ROOT
from tests.support.source import MODULES, graph, part_of, reached, trees

# From the foundation up: a part imports only parts above it in this list. A part is a file or a package of `streams`.
ORDER = """
    exceptions signals conf redaction
    telemetry
    protocol
    private runtime
    models channels
    tokens policies
    notifiers
    log
    publishing presence access
    http
    broadcasts delivery
    views urls direct asgi client health metrics
    testing pytest_plugin eventstream
    doctor installation
    templatetags management
    checks apps __main__
    relay admin api
""".split()  # noqa: SIM905 - easier to read than a list

# They import the rest; nothing imports them, and they do not import each other.
INTEGRATIONS = ("admin", "api", "relay")

REST = ("rest_framework", "drf_spectacular")

MAX_LINES = 350


# --- Imports ----------------------------------------------------------------------------------------------------------


def test_import_statements_are_found() -> None:
    """Otherwise the tests below would pass on an empty graph."""
    assert "streams.log" in graph()["streams.delivery.hub"]
    assert "streams.protocol.sse" in graph()["streams.notifiers.base"], "also those for type checkers"
    assert "streams.publishing.publish" in graph()["streams"]
    assert "streams.policies" in graph()["streams.checks"], "also those inside functions"
    assert len(MODULES) > 100


def test_each_part_has_a_place_in_the_order() -> None:
    assert sorted(ORDER) == sorted({part_of(name) for name in MODULES} - {""})


def test_imports_go_one_way() -> None:
    rank = {part: number for number, part in enumerate(ORDER)}
    wrong = [
        f"{name} -> {found}"
        for name in MODULES
        for found in graph()[name]
        if part_of(name) and part_of(found) and rank[part_of(found)] > rank[part_of(name)]
    ]
    assert wrong == []


def test_modules_form_no_circle() -> None:
    """The imports of the package `streams` do not count, because it loads its public names when they are used."""
    circles = [
        " -> ".join([name, *paths[name]])
        for name in MODULES
        if name != "streams"
        for following in graph()[name] - {"streams"}
        if name in (paths := reached_without_public_names(following))
    ]
    assert circles == []


def reached_without_public_names(start: str) -> dict[str, list[str]]:
    public = graph().pop("streams")
    try:
        return reached(start)
    finally:
        graph()["streams"] = public


def test_integrations_do_not_import_each_other() -> None:
    wrong = [
        f"{name} -> {found}"
        for name in MODULES
        for found in graph()[name]
        if part_of(name) in INTEGRATIONS and part_of(found) in INTEGRATIONS and part_of(name) != part_of(found)
    ]
    assert wrong == []


def test_only_integrations_import_the_public_names() -> None:
    """Internal modules import a name from its module, because `from streams import publish` hides an import."""
    parts = {part_of(name) for name in MODULES if "streams" in graph()[name]}
    assert parts <= {*INTEGRATIONS, "management"}


def test_nothing_imports_the_project_or_the_tests() -> None:
    assert [name for name in MODULES if any(re.match(r"(project|tests)\b", found) for found in graph()[name])] == []


def test_publishing_and_delivery_meet_at_the_log() -> None:
    """Publishing does not load the hub, and the hub does not load the code for publishing."""
    assert {"streams.log", "streams.notifiers"} <= reached("streams.publishing.publish").keys()
    assert {"streams.log", "streams.notifiers"} <= reached("streams.delivery.hub").keys()
    assert not any(part_of(name) == "delivery" for name in reached("streams.publishing.publish"))
    assert not any(part_of(name) == "publishing" for name in reached("streams.delivery.hub"))


def test_only_the_api_needs_rest_framework() -> None:
    """Django REST framework is an extra. Without it, all other parts work."""
    needing = {part_of(name) for name in MODULES if any(found.startswith(REST) for found in graph()[name])}
    assert needing == {"api"}


def test_protocol_does_no_io() -> None:
    doing = ("asyncio", "asgiref", "threading", "socket", "logging", "django.db", "django.http")
    wrong = [
        f"{name} -> {found}"
        for name in MODULES
        for found in reached(name)
        if part_of(name) == "protocol" and found.startswith(doing)
    ]
    assert wrong == []


def test_wire_format_needs_no_django() -> None:
    assert not [found for found in reached("streams.protocol.sse") if found.split(".")[0] in ("django", "asgiref")]


def test_importing_streams_loads_no_models_and_needs_no_settings() -> None:
    code = "import sys, streams; print([name for name in sys.modules if name.split('.')[0] in ('django', 'streams')])"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env={}, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['streams']\n", "")


def test_events_can_be_imported_before_the_apps_are_ready() -> None:
    """A settings file and the models of other apps can then use them."""
    code = "from streams import Event, NewMessage; print(Event('a').encode())"
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env={}, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'data: a\\n\\n'\n", "")


# --- Files ------------------------------------------------------------------------------------------------------------


def test_every_module_has_a_docstring() -> None:
    assert [name for name, tree in trees().items() if tree.body and not ast.get_docstring(tree)] == []


NOT_OURS = {"migrations", "node_modules", ".venv", "_build"}


def test_no_file_is_long() -> None:
    """This applies to Python and JavaScript, including tests. Generated and installed files do not count."""
    files = [path for top in ("streams", "project", "tests", "benchmarks", "docs") for path in (ROOT / top).rglob("*")]
    code = [path for path in files if path.suffix in (".py", ".js") and not NOT_OURS & {*path.parts}]
    assert len(code) > 300
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
