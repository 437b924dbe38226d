"""The ASGI application of Streams that opens streams directly."""

import os

from streams.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

application = get_asgi_application(
    direct=True,
    skip_middleware=["project.middleware.StaticFiles"],
)
