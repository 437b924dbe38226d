"""A site whose messages are published by Celery's workers. Their broker is a folder."""

import os

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import DATABASES, STREAMS

FOLDER = os.environ.get("TEST_BROKER", "")
CELERY_BROKER_URL = "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "data_folder_in": FOLDER,
    "data_folder_out": FOLDER,
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.05,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

STREAMS = {**STREAMS, "POLL_SECONDS": 0.3}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    STREAMS["NOTIFIER"] = {"BACKEND": "streams.notifiers.postgres.PostgresNotifier"}
