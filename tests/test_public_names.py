"""The public names exist in the documented places, and have the documented signatures."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess

import pytest
from django.urls import resolve, reverse

import streams
from tests.support.sites import PYTHON, ROOT

NAMES = {
    *("publish", "apublish", "publish_many", "apublish_many", "disconnect", "adisconnect"),
    *("NewMessage", "Event", "EventStreamResponse", "subscribe"),
}


def test_public_names_are_these() -> None:
    assert set(streams.__all__) == NAMES
    assert len(streams.__all__) == len(NAMES)
    assert set(dir(streams)) >= NAMES | {"__version__"}


def test_star_import_brings_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from streams import *", found)
    assert found.keys() - {"__builtins__"} == NAMES


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'streams' has no attribute 'publich'"):
        streams.publich  # noqa: B018
    with pytest.raises(ImportError):
        from streams import Hub  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.parametrize("name", sorted(NAMES))
def test_public_name_stays_what_it_is_whatever_is_imported(name: str) -> None:
    """Importing a submodule sets an attribute of its package, so no submodule can have a public function's name."""
    before = getattr(streams, name)
    for module in pkgutil.walk_packages(streams.__path__, "streams."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
    assert getattr(streams, name) is before
    assert callable(before)
    assert before.__doc__


@pytest.mark.parametrize("first", ["streams.publishing.publish", "streams.http.response", "streams.views", "sys"])
def test_public_names_are_found_in_any_order_of_imports(first: str) -> None:
    code = f"import django; django.setup()\nimport {first}\nfrom streams import publish, EventStreamResponse\n"
    code += "print(publish.__name__, EventStreamResponse.__name__)"
    env = {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": "sqlite://:memory:"}
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "publish EventStreamResponse\n"), done.stderr


@pytest.mark.parametrize("name", ["publish", "apublish"])
def test_publish_takes_its_arguments_as_documented(name: str) -> None:
    signature = inspect.signature(getattr(streams, name))
    parameters = list(signature.parameters.values())
    assert [parameter.name for parameter in parameters[:4]] == ["channel", "data", "event", "idempotency_key"]
    assert {parameter.kind for parameter in parameters[:2]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {parameter.kind for parameter in parameters[2:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert signature.parameters["event"].default == "message"
    assert {parameter.default for parameter in parameters[3:]} == {None}
    assert inspect.iscoroutinefunction(getattr(streams, name)) == (name == "apublish")


@pytest.mark.parametrize(("sync", "twin"), [("publish", "apublish"), ("publish_many", "apublish_many")])
def test_async_twin_takes_the_same_arguments(sync: str, twin: str) -> None:
    one, other = inspect.signature(getattr(streams, sync)), inspect.signature(getattr(streams, twin))
    assert one == other


def test_urls_have_their_names() -> None:
    assert reverse("streams:channel", args=["news"]) == "/events/news/"
    assert reverse("streams:channels") == "/events/"
    assert resolve("/events/user.7/").kwargs == {"channel": "user.7"}


@pytest.mark.parametrize(
    "path",
    [
        "streams.asgi.get_asgi_application",
        "streams.notifiers.local.LocalNotifier",
        "streams.notifiers.postgres.PostgresNotifier",
        "streams.notifiers.channel_layer.ChannelLayerNotifier",
        "streams.policies.DefaultPolicy",
        "streams.policies.BasePolicy",
        "streams.views.EventStreamView",
        "streams.testing.read_events",
        "streams.client.EventSource",
        "streams.client.AsyncEventSource",
        "streams.exceptions.InvalidMessage",
        "streams.exceptions.StreamsError",
    ],
)
def test_what_settings_and_sites_name_is_where_they_name_it(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name).__doc__


def test_package_is_typed() -> None:
    assert (ROOT / "streams" / "py.typed").exists()
