"""The OpenAPI schema: complete, limited to this API, and with the limits from the site's settings."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from django.test import override_settings
from django.urls import get_resolver

from streams.api.openapi.schema import document
from streams.api.urls import urlpatterns
from tests.api.callers import bearer, code, get
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.django_db

OPERATIONS = [
    (path, method, operation) for path, item in document("/api/")["paths"].items() for method, operation in item.items()
]


def test_every_endpoint_is_described_also_the_async_ones() -> None:
    described = {path for path, _, _ in OPERATIONS}
    routed = {"/" + str(route.pattern).replace("<str:channel>", "{channel}") for route in urlpatterns}
    assert described == routed - {"/docs/"}
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS) == 11


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:40])
def test_every_operation_has_words_examples_and_errors(path: str, method: str, operation: Any) -> None:
    assert operation["summary"]
    assert operation["tags"]
    assert operation["security"]
    if method == "post":
        content = operation["requestBody"]["content"]["application/json"]
        assert content["examples"]
        assert operation["requestBody"]["required"] is True
    for status, answer in operation["responses"].items():
        assert answer["description"], status
        [(kind, content)] = answer["content"].items()
        assert kind == "application/json"
        if status >= "400" and path != "/health/ready":
            assert content["schema"] == {"$ref": "#/components/schemas/Error"}
            [example] = content["examples"].values()
            assert example["value"]["error"].keys() == {"code", "message"}


def test_what_takes_credentials_says_so() -> None:
    security = {operation["operationId"]: operation["security"] for _, _, operation in OPERATIONS}
    assert security["publishFast"] == [{"signedToken": []}, {"signedTokenInURL": []}]
    assert security["issueToken"] == [{"cookieAuth": []}, {"tokenAuth": []}, {"basicAuth": []}]
    assert security["live"] == security["ready"] == [{}]
    assert {} in security["history"]
    assert {"signedToken": []} in security["history"]


def test_schema_is_served_for_where_the_api_is_mounted() -> None:
    answer = get("/api/schema/", {"accept": "application/vnd.oai.openapi"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(document("/api/")))
    assert answer.json()["servers"] == [{"url": "/api"}]
    assert document("/")["servers"] == [{"url": "/"}]


def test_schema_has_the_sites_limits() -> None:
    with override_settings(
        STREAMS={"MAX_MESSAGES_PER_REQUEST": 7, "MAX_TOKEN_SECONDS": 99, "MAX_CHANNELS_PER_STREAM": 3}
    ):
        schemas = get("/api/schema/").json()["components"]["schemas"]
    assert schemas["NewMessagesBody"]["properties"]["messages"]["maxItems"] == 7
    assert schemas["NewTokenBody"]["properties"]["seconds"]["maximum"] == 99
    assert schemas["NewTokenBody"]["properties"]["read"]["maxItems"] == 3
    assert schemas["NewMessageBody"]["additionalProperties"] is False


def test_bad_credentials_are_refused_here_as_well() -> None:
    assert code(get("/api/schema/", {"authorization": "Bearer streams.x"})) == (401, "invalid-token")
    assert get("/api/schema/", bearer()).status_code == 200


OF_ANOTHER_SITE = """
import django; django.setup()
import json
from drf_spectacular.generators import SchemaGenerator
from streams.api.openapi.schema import document
own = SchemaGenerator(urlconf="project.urls").get_schema(request=None, public=True)
print(json.dumps([document("/api/") , own], default=str))
"""


@pytest.mark.once
@pytest.mark.parametrize("default", ["rest_framework.schemas.openapi.AutoSchema", "drf_spectacular.openapi.AutoSchema"])
def test_schema_is_the_same_whatever_the_site_does_with_its_own(default: str) -> None:
    """The settings of the site's own schema do not change it, and that schema can still be generated."""
    settings = f"""
from tests.settings import *
REST_FRAMEWORK = {{**REST_FRAMEWORK, "DEFAULT_SCHEMA_CLASS": {default!r}, "DEFAULT_PAGINATION_CLASS":
    "rest_framework.pagination.PageNumberPagination", "PAGE_SIZE": 10,
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.FormParser"],
    "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
    "EXCEPTION_HANDLER": "nowhere.handler"}}
SPECTACULAR_SETTINGS = {{"TITLE": "A shop", "SERVERS": [{{"url": "https://shop.example"}}], "SECURITY": [],
    "PREPROCESSING_HOOKS": ["tests.api.test_schema.drop_everything"], "SCHEMA_PATH_PREFIX": "/api/v[0-9]"}}
"""
    code = f"import sys, types; m = types.ModuleType('other'); exec({settings!r}, m.__dict__); sys.modules['other'] = m"
    env = {"DJANGO_SETTINGS_MODULE": "other", "DATABASE_URL": "sqlite://:memory:"}
    done = subprocess.run(
        [PYTHON, "-c", code + OF_ANOTHER_SITE], cwd=ROOT, env=env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert ours == json.loads(json.dumps(document("/api/")))
    assert (theirs["info"]["title"], theirs["paths"]) == ("A shop", {}), "its own settings and hook apply to it"


def drop_everything(endpoints: Any) -> Any:
    """Remove all endpoints, as a site's hook of drf-spectacular."""
    return []


def test_urls_have_names() -> None:
    names = {pattern.name for pattern in urlpatterns}
    assert None not in names
    assert len(names) == len(urlpatterns)
    assert get_resolver().namespace_dict["streams_api"][0] == "api/"
