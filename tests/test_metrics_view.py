"""Who can read the metrics, and a scrape's figures of the database."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.test import Client, RequestFactory
from prometheus_client.parser import text_string_to_metric_families

from streams import publish
from streams.runtime import readings
from streams.runtime.readings import Reading
from tests.api.callers import code
from tests.support.services import missing

PATH = "/test/metrics/"
TOKEN = "a-token-of-Prometheus-1"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "METRICS_TOKEN": TOKEN}


def scrape(**headers: str) -> Any:
    return Client().get(PATH, headers={"Authorization": f"Bearer {TOKEN}", **headers})


def found(answer: Any) -> dict[str, float]:
    """Return {name: value} of the samples without labels."""
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


# --- Access -----------------------------------------------------------------------------------------------------------


def test_scrape_without_credentials_is_refused() -> None:
    answer = Client().get(PATH)
    assert code(answer) == (403, "forbidden")
    assert b"streams_" not in answer.content


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer", "Bearer ", f"bearer {TOKEN}x", "Bearer \u00e9"])
def test_wrong_token_is_refused_and_not_shown(given: str) -> None:
    answer = Client().get(PATH, headers={"Authorization": given})
    assert code(answer) == (401, "authentication-failed")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN.encode() not in answer.content


@pytest.mark.parametrize("given", ["Bearer None", "Bearer ", "Bearer"])
def test_no_token_works_if_none_is_set(settings: Any, given: str) -> None:
    settings.STREAMS = {}
    assert Client().get(PATH, headers={"Authorization": given}).status_code == 401
    assert Client().get(PATH).status_code == 403


@pytest.mark.parametrize(
    ("is_staff", "is_active", "status"), [(True, True, 200), (False, True, 403), (True, False, 403)]
)
def test_active_staff_can_look(is_staff: bool, is_active: bool, status: int) -> None:
    user = get_user_model().objects.create(username="one", is_staff=is_staff, is_active=is_active)
    client = Client()
    client.force_login(user)
    assert client.get(PATH).status_code == status


def test_scrape_is_not_stored_and_has_its_methods() -> None:
    answer = scrape()
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert scrape(Accept="application/openmetrics-text; version=1.0.0").content.endswith(b"# EOF\n")
    assert code(Client().post(PATH)) == (405, "method-not-allowed")


# --- The database -----------------------------------------------------------------------------------------------------


def test_scrape_reads_the_figures_of_the_log() -> None:
    publish("news", "x")
    publish("news", "x")
    samples = found(scrape())
    assert samples["streams_database_up"] == 1
    assert samples["streams_log_head"] == 2
    assert samples["streams_log_unsequenced_messages"] == 0
    assert samples["streams_pruning_lag_seconds"] == 0
    assert 'streams_generations{state="queued"} 0.0' in scrape().content.decode()


def test_scrape_of_a_site_whose_database_is_away_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OperationalError("password of streams@10.0.0.1 is wrong")

    monkeypatch.setitem(readings._registered, "log_head", Reading("log_head", "The head.", fail))
    samples = found(scrape())
    assert samples["streams_database_up"] == 0
    assert "streams_log_head" not in samples
    assert "streams_published_messages_total" in samples


def test_default_endpoint_of_django_prometheus_has_them_too() -> None:
    exports = pytest.importorskip("django_prometheus.exports")
    publish("news", "x")
    samples = found(exports.ExportToDjangoView(RequestFactory().get("/")))
    assert samples["streams_log_head"] == 1
    assert "streams_published_messages_total" in samples


def test_text_follows_the_conventions_of_prometheus() -> None:
    program = shutil.which("promtool") or missing("promtool", "prometheus")
    lines = [line for line in scrape().content.decode().splitlines() if "streams_" in line]
    done = subprocess.run([program, "check", "metrics"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
