"""On a site with a custom user model, no request causes a 500, and a changed password ends the user's streams."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.once

CODE = """
import asyncio, json, uuid
import django
django.setup()
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import AsyncClient
from django.test.utils import setup_test_environment
from streams.access.admission import Admission
from streams.models import ChannelSettings
from streams.policies import get_policy
from streams.tokens import make_token, user_with_fingerprint
from streams.testing import read_events
from tests.system.own_user.models import Person

call_command("migrate", run_syncdb=True, verbosity=0)
setup_test_environment()
ann = Person.objects.create(email="ann")
ChannelSettings.objects.create(channel="staff", access="staff")
ChannelSettings.objects.create(channel="club", access="groups").groups.add(Group.objects.create(name="club"))
found = {"unknown": [user_with_fingerprint(key, "mark") for key in (str(uuid.uuid4()), "7", "none")]}
token = make_token(read=["job"], user=ann)

async def main():
    client = AsyncClient()
    await client.aforce_login(ann, backend="django.contrib.auth.backends.ModelBackend")
    for name in ("other", "staff", "club"):
        found[name] = (await client.get(f"/events/{name}/")).status_code
    own = await client.get(f"/events/user.{ann.pk}/")
    by_token = await AsyncClient().get("/events/job/", {"token": token})
    found["own"] = [own.status_code, by_token.status_code]
    ann.set_password("new")
    await ann.asave()
    found["ended"] = [
        (await read_events(each, 9, timeout=20, control=True))[-1].event for each in (own, by_token)
    ]

asyncio.run(main())
print(json.dumps(found))
"""


def test_user_without_staff_groups_permissions_and_a_column_for_being_active(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.system.own_user.settings",
        "TEST_DATABASE": str(tmp_path / "db.sqlite3"),
    }
    done = subprocess.run([PYTHON, "-c", CODE], cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "unknown": [None, None, None],
        "other": 403,
        "staff": 403,
        "club": 403,
        "own": [200, 200],
        "ended": ["stream-error", "stream-error"],
    }
