"""A PostgreSQL database for notifiers, which is independent of the log's database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from tests.support.services.postgres import PostgresServer


@pytest.fixture(scope="module")
def settings_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield an alias in DATABASES for a new PostgreSQL database, which exists while the module runs."""
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = postgres.create_database()
    connections.settings["notifiers"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": "127.0.0.1",
        "PORT": str(postgres.port),
        "USER": "streams",
        "PASSWORD": "rather-secret",
        "OPTIONS": {},
    }
    yield "notifiers"
    connections["notifiers"].close()
    del connections["notifiers"], connections.settings["notifiers"]


@pytest.fixture
def database_in_threads(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
