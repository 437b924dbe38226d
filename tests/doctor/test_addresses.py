"""What the doctor says about the addresses that the site sees. tests/system/doctor has the same behind nginx."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError

from streams.doctor import addresses
from streams.http.client_address import address_key
from tests.admin.test_nodes import make

pytestmark = pytest.mark.django_db(transaction=True)

FORGED = "203.0.113.7"


class Opened:
    """A response that has been open for `seconds`."""

    def __init__(self, seconds: float = 60.0, **headers: str) -> None:
        self.seconds = seconds
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def levels(response: Opened) -> list[str]:
    return [each.level.name for each in addresses.check(response, FORGED)]  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _proxies(settings: Any) -> None:
    settings.STREAMS = {"TRUSTED_PROXIES": ["127.0.0.1"], "PRESENCE_SECONDS": 5}


def test_address_that_a_client_invented_is_found() -> None:
    make(connections=1, callers={address_key(FORGED): 1})
    [found] = addresses.check(Opened(Server="nginx"), FORGED)  # type: ignore[arg-type]
    assert found.level.name == "PROBLEM"
    assert "`proxy_set_header X-Forwarded-For $remote_addr;`" in found.remedy


def test_address_of_the_client_is_good() -> None:
    make(connections=1, callers={address_key("198.51.100.1"): 1})
    assert levels(Opened(Server="nginx")) == ["OK"]
    assert levels(Opened(Server="uvicorn")) == []


@pytest.mark.parametrize("case", ["early", "other database", "outage", "off"])
def test_unknown_address_is_no_verdict(settings: Any, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    make(connections=0 if case == "other database" else 1)
    if case == "off":
        settings.STREAMS = {"TRUSTED_PROXIES": ["127.0.0.1"], "PRESENCE_SECONDS": None}
    if case == "outage":

        def fail(function: object) -> None:
            raise OperationalError

        monkeypatch.setattr(addresses, "in_time", fail)
    assert levels(Opened(3.0 if case == "early" else 60.0, Server="nginx")) == []


@pytest.mark.parametrize("headers", [{"Server": "cloudflare"}, {"Via": "1.1 varnish"}, {"CF_Ray": "1"}])
def test_unnamed_proxy_is_a_warning(settings: Any, headers: dict[str, str]) -> None:
    settings.STREAMS = {}
    [found] = addresses.check(Opened(**headers), FORGED)  # type: ignore[arg-type]
    assert found.level.name == "WARNING"
    assert "TRUSTED_PROXIES" in found.remedy
    settings.STREAMS = {"MAX_STREAMS_PER_ADDRESS": None}
    assert levels(Opened(**headers)) == []
