"""The relay's system checks. Each test compares the whole list of messages."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import Error
from django.test import override_settings

from streams.relay import checks
from streams.relay.models import Generation, Usage

SCRIPTED = "streams.relay.upstreams.ScriptedUpstream"
REAL = "streams.relay.upstreams.OpenAICompatible"


def messages_for(**streams: Any) -> list[tuple[str, str]]:
    with override_settings(STREAMS=streams):
        return [(message.id or "", message.msg) for message in checks.check_upstreams(None)]


def test_nothing_is_said_of_these() -> None:
    assert messages_for() == []
    real = {"base_url": "http://127.0.0.1:1/v1", "api_key": "sk-1", "models": ["small"]}
    assert messages_for(UPSTREAMS={"default": {"BACKEND": REAL, "OPTIONS": real}, "other": {"BACKEND": SCRIPTED}}) == []


def test_e001_classes_that_cannot_be_loaded() -> None:
    found = messages_for(UPSTREAMS={"default": {"BACKEND": "no.such.Upstream"}}, RELAY_ACCESS="no.such.Access")
    assert [id for id, _ in found] == ["streams_relay.E001"] * 2
    assert found[0][1].startswith("STREAMS['RELAY_ACCESS'] cannot be loaded: ")
    assert found[1][1].startswith("STREAMS['UPSTREAMS']['default']['BACKEND'] cannot be loaded: ")


def test_e002_options_that_do_not_fit_and_never_the_key() -> None:
    secret = "sk-very-secret"
    found = messages_for(
        UPSTREAMS={
            "default": {"BACKEND": SCRIPTED, "OPTIONS": {"speed": 1}},
            "real": {"BACKEND": REAL, "OPTIONS": {"base_url": "ftp://x", "api_key": secret, "models": ["small"]}},
        }
    )
    assert [id for id, _ in found] == ["streams_relay.E002"] * 2
    assert "has no 'speed'" in found[0][1]
    assert "must be an address" in found[1][1]
    assert secret not in repr(found)


@pytest.mark.parametrize("upstreams", [{}, {"other": {"BACKEND": SCRIPTED}}, {"default": "x"}, [SCRIPTED]])
def test_setting_of_the_wrong_form_is_for_the_cores_check(upstreams: Any) -> None:
    assert messages_for(UPSTREAMS=upstreams) == []


class Elsewhere:
    """A router that writes the relay's tables to another database than the log."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "default" if model in (Generation, Usage) else "log"


def test_e003_tables_in_another_database_than_the_log() -> None:
    assert checks.check_database(None) == []
    with override_settings(DATABASE_ROUTERS=[Elsewhere()]):
        [error] = checks.check_database(None)
    assert isinstance(error, Error)
    assert error.id == "streams_relay.E003"
    assert "in the database 'default', and the log is in 'log'" in error.msg
