"""The tests' site with the pages of the recipes. PROJECT is the folder with their templates and static files."""

import os
from pathlib import Path

from tests.settings import *  # noqa: F403
from tests.settings import STREAMS, TEMPLATES

PROJECT = Path(os.environ["PROJECT"])
ROOT_URLCONF = "tests.system.browser.front_ends.site"
TEMPLATES = [{**TEMPLATES[0], "DIRS": [PROJECT / "templates"]}]
STATICFILES_DIRS = [PROJECT / "static"]
STREAMS = {**STREAMS, "POLICY": "tests.system.browser.front_ends.site.Policy"}
