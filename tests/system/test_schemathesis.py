"""The API's answers conform to its OpenAPI schema, for valid and invalid requests generated from the schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import override_settings
from hypothesis import HealthCheck, settings
from rest_framework.authtoken.models import Token
from schemathesis.config import SchemathesisConfig

from streams import NewMessage, publish_many
from streams.api.openapi.schema import document
from streams.tokens import make_token
from tests.api.callers import user

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

# pyproject.toml disables the plugin, because loading it takes seconds in each process. Only these tests need it.
pytest_plugins = ["schemathesis.pytest.plugin"]

# The number of examples for each operation. To run many more: `st run http://127.0.0.1:8000/api/schema/`.
MAX_EXAMPLES = 8

KEY = "0123456789abcdef0123456789abcdef01234567"

CONFIG = {
    "seed": 1,
    "checks": {
        # 422: the request is valid, but conflicts with the stored data: a used key, or a user who does not exist.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "422", "429"]}
    },
    "auth": {
        "openapi": {
            "tokenAuth": {"api_key": f"Token {KEY}"},
            "signedToken": {"bearer": make_token(read=["*"], publish=["*"], seconds=86_400)},
        }
    },
}

schema = schemathesis.openapi.from_dict(document("/api/"), config=SchemathesisConfig.from_dict(CONFIG))
schema.app = WSGIHandler()


@pytest.fixture(autouse=True)
def _everything_is_allowed(db: None) -> Iterator[None]:
    root = user("root", is_superuser=True, is_staff=True)
    Token.objects.create(user=root, key=KEY)
    publish_many([NewMessage("news", n) for n in range(3)])
    # Django's test client does the same, because a request must not close the test's connection.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    with override_settings(STREAMS={"PUBLISH_MESSAGES_PER_MINUTE": None}):
        yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@schema.parametrize()
@settings(
    max_examples=MAX_EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_answers_are_as_the_schema_says(case: schemathesis.Case) -> None:
    case.call_and_validate()
