"""A site below /app, for any server and any proxy."""

from tests.system.sites.projects.base import *  # noqa: F403

FORCE_SCRIPT_NAME = "/app"
