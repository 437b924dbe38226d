"""The ASGI application of the demo site, for daphne, uvicorn, granian and hypercorn."""

import os

from streams.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = get_asgi_application()
