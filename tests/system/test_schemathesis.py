"""What the schema promises, tried with data that is made of it, in order and out of order."""

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

# For these tests only: loading the plugin takes seconds, in each process of a run. pyproject.toml has switched it off.
pytest_plugins = ["schemathesis.pytest.plugin"]

# For each operation. With many more, by hand: `st run http://127.0.0.1:8000/api/schema/`.
MAX_EXAMPLES = 8

KEY = "0123456789abcdef0123456789abcdef01234567"

CONFIG = {
    "seed": 1,
    "checks": {
        # 422: in order, but not with what is stored: a key that was used, a user who is not there.
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
    # As Django's own test client does: the test's connection is not a request's to close.
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
