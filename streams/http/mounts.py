"""The URLs of Streams, wherever the site has included them: in a namespace of its own, or below a prefix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from django.http import HttpRequest
from django.urls import NoReverseMatch, get_script_prefix, get_urlconf, reverse

from streams.private.django import namespaces_of


def namespace_of(request: HttpRequest | None) -> str:
    """Return the namespace of the page or view that handles this request, such as `shop:streams`; "" without one."""
    match = getattr(request, "resolver_match", None)
    return str(getattr(request, "current_app", None) or getattr(match, "namespace", ""))


def reverse_mounted(app_name: str, name: str, args: Sequence[object] = (), *, near: str = "") -> str:
    """Reverse a URL of an app by its `app_name`. Django's reverse() needs to know the namespaces around it.

    If the site includes the app's URLs several times, the namespace closest to `near` is preferred, and then the
    default instance. Raises NoReverseMatch if the site does not include them, or only below a prefix with parameters.
    """
    here = near.split(":") if near else []

    def distance(namespace: str) -> tuple[int, bool]:
        path = namespace.split(":")
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(path, here, strict=False)))
        return -shared, path[-1] != app_name  # then prefer the default instance

    for namespace in sorted(namespaces_of(app_name), key=distance) or [app_name]:
        try:
            return reverse(f"{namespace}:{name}", args=args, current_app=near or None)
        except NoReverseMatch:
            continue
    raise NoReverseMatch(f"The URLconf {get_urlconf() or 'ROOT_URLCONF'} does not include the URLs of {app_name!r}.")


def path_of(request: HttpRequest) -> str:
    """Return the path under which clients reach this request, with the prefix of the site.

    Under ASGI, `request.path` is the path that the server got (seen in Django 5.2 to 6.1). If a proxy has removed the
    prefix that FORCE_SCRIPT_NAME or the server's `root_path` names, the prefix is not in it.
    """
    return get_script_prefix().rstrip("/") + request.path_info
