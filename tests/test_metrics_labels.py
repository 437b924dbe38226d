"""The labels of metrics are fixed, and metrics cost nothing if they are off."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
from django.test import AsyncClient

from streams import apublish, metrics
from streams.telemetry import recorder
from streams.telemetry.error_codes import CODES
from tests.support.metrics import open_stream, values
from tests.support.sites import PYTHON, ROOT


@pytest.mark.django_db(transaction=True)
async def test_no_label_grows_with_what_clients_choose() -> None:
    """All series exist before anything happens, except for the codes of refusals, which are fixed as well."""
    before = set(values())
    client = AsyncClient()
    for path in ("/events/secret/", "/events/a b/", "/events/", "/events/news/?replay=x", "/events/?channel=a&end=b"):
        await client.get(path)
    recorder.current.refused("a code of the site's policy")
    await (await open_stream(last_event_id="chosen by the client")).aclose()
    await apublish("public.chosen-by-the-client", "x", event="chosen")
    new = set(values()) - before
    codes = {
        found[1] for name in new if (found := re.match(r'streams_refusals_(?:total|created)\{code="(.+)"\}', name))
    }
    assert codes <= {*CODES, "other"}
    assert {name for name in new if not name.startswith("streams_refusals_")} == set()
    assert 'streams_refusals_total{code="other"}' in values()


@pytest.mark.once
def test_codes_are_those_of_the_reference() -> None:
    rows = re.findall(r"^\| \d{3} \| (.+?) \|", (ROOT / "docs" / "reference" / "errors.md").read_text(), re.M)
    assert {code for row in rows for code in re.findall(r"`([\w-]+)`", row)} == CODES


# --- Off --------------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_metrics_are_off_without_their_module(tmp_path: Any) -> None:
    code = "import django; django.setup(); import streams.urls, sys; from streams.telemetry import recorder\n"
    code += "print(type(recorder.current) is recorder.Recorder, 'prometheus_client' in sys.modules)"
    env = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare",
    }
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "True False\n"), done.stderr


@pytest.mark.once
def test_missing_library_is_an_error_with_the_remedy() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\nimport django; django.setup(); import streams.metrics"
    env = {**os.environ, "DATABASE_URL": "sqlite://:memory:", "DJANGO_SETTINGS_MODULE": "tests.support.settings_bare"}
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 1
    assert 'Install the extra: pip install "django-sse-streams[metrics]"' in done.stderr


@pytest.mark.once
def test_recorder_overrides_every_method() -> None:
    """A method without a metric would be an event that is reported in vain."""
    methods = {name for name, value in vars(recorder.Recorder).items() if callable(value)}
    assert methods
    assert methods <= vars(metrics.PrometheusRecorder).keys()
