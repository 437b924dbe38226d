"""The demo site's ASGI application: what daphne, uvicorn, granian and hypercorn serve."""

import os

from streams.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = get_asgi_application()
