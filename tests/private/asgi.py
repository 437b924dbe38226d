"""Django's ASGI application, with the asgiref internals that Streams uses hidden from it."""

from types import SimpleNamespace

from streams.private import asgiref
from tests.support.asgi import application as application

asgiref.SyncToAsync = asgiref.AsyncToSync = SimpleNamespace()
