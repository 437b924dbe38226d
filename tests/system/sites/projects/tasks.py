"""A site whose messages are published by Celery's workers and by Django's tasks."""

import os

import django

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import DATABASES, INSTALLED_APPS, STREAMS

if django.VERSION >= (6, 0):
    TASKS = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}
else:
    INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks"]
    TASKS = {"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}}

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
