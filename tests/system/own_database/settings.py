"""The tests' site with the log in its own database. The router has no opinion on users, groups and sessions."""

import os

import environ

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

LOG_OPTIONS = {"OPTIONS": DATABASES["default"]["OPTIONS"]} if "OPTIONS" in DATABASES["default"] else {}
DATABASES["log"] = environ.Env.db_url_config(os.environ["LOG_DATABASE_URL"]) | LOG_OPTIONS
DATABASE_ROUTERS = ["tests.system.own_database.router.LogRouter"]
