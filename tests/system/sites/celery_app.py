"""A site's Celery application, as in Celery's documentation of Django."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.system.sites.projects.celery_workers")

app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tests.system.sites"])
