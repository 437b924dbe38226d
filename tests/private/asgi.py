"""Django's ASGI application with a version of asgiref that shows Streams none of its internals."""

from types import SimpleNamespace

from streams.private import asgiref
from tests.support.asgi import application as application

asgiref.SyncToAsync = asgiref.AsyncToSync = SimpleNamespace()
