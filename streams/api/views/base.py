"""The base class of the API's views, and checks that several of them make."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import AuthenticationFailed, MethodNotAllowed, NotAuthenticated
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from streams.access.request_user import set_user
from streams.api import errors
from streams.api.authentication import SignedTokenAuthentication, unknown_token
from streams.api.openapi.schema import StreamsSchema
from streams.api.requests import bodies
from streams.exceptions import HTTPError
from streams.policies import get_policy
from streams.protocol.events import validate_channel
from streams.runtime import failures
from streams.runtime.database import non_atomic_requests
from streams.tokens import bearer

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponse]]


class AlwaysJSON(BaseContentNegotiation):
    """Select the view's only renderer.

    DRF's class would answer an EventSource's `Accept: text/event-stream` with 406 and hide the actual error.
    """

    def select_renderer(self, request: Request, renderers: Sequence[Any], format_suffix: Any = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class PlainJSON(JSONRenderer):
    """JSON as RFC 8259 defines it, whatever the site's settings for its own views are."""

    strict = True
    ensure_ascii = False
    compact = True


class JSONRequest(Request):
    """DRF's request, except that requests/bodies.py reads the body."""

    body_rule = bodies.ANONYMOUS  # until the caller has authenticated

    def _parse(self) -> tuple[Any, MultiValueDict[str, Any]]:
        return bodies.read_json(self._request, self.body_rule), MultiValueDict()

    @property
    def POST(self) -> QueryDict:
        """Return an empty form.

        SessionAuthentication looks for a CSRF token in it. DRF's version would parse the body for that, before the
        caller has authenticated. Here the token must be in a header.
        """
        return QueryDict()


# A message has no position before its transaction commits, and the response contains the position.
@method_decorator(non_atomic_requests, name="dispatch")
class StreamsAPIView(APIView):
    """The base class. It uses the site's authentication, permission and throttle classes, but neither its parsers nor
    its renderers.

    Pass `request._request` to policies, because they take Django's request. Its user is the one that DRF has
    authenticated.
    """

    authentication_classes = [SignedTokenAuthentication, *api_settings.DEFAULT_AUTHENTICATION_CLASSES]
    parser_classes = [JSONParser]  # only for the schema; see JSONRequest
    renderer_classes = [PlainJSON]
    content_negotiation_class = AlwaysJSON
    versioning_class = None
    metadata_class = None
    uses_database = True  # a successful response shows that the database works
    # Only for the schema: the views themselves check it.
    needs_credentials = False
    takes_signed_tokens = True
    takes_small_bodies_only = False
    schema: Any = StreamsSchema()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        context = self.get_parser_context(request)
        return JSONRequest(request, authenticators=self.get_authenticators(), parser_context=context)

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)
        if request.user is None:  # the site's UNAUTHENTICATED_USER can be None
            request.user = AnonymousUser()
        if request.successful_authenticator is None and bearer(request._request) is not None:
            raise unknown_token()
        if self.takes_small_bodies_only:
            request.body_rule = bodies.SMALL
        elif has_credentials(request):
            request.body_rule = bodies.BY_SETTING
        # For async policies: Django's own auser() returns the session's user, also if other credentials were sent.
        set_user(request._request, request.user)

    def get_exception_handler(self) -> Any:
        return errors.handle

    def options(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        """Return the methods. The site's middleware has answered a CORS preflight before."""
        return HttpResponse(status=204)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if self.uses_database and response.status_code in (200, 201, 202):
            failures.DATABASE.recovered()
        response.headers.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)


def async_view(description: type[StreamsAPIView], *methods: str) -> Callable[[AsyncView], AsyncView]:
    """Return a decorator for an async function that is a view without DRF. Its errors are answered as those of DRF's.

    Args:
        description: describes the view in the schema.
        methods: the methods that the function handles. OPTIONS is answered for it.
    """
    allowed = ", ".join([*methods, "OPTIONS"])

    def decorate(function: AsyncView) -> AsyncView:
        @csrf_exempt  # it uses no cookies
        @login_not_required
        @non_atomic_requests
        @functools.wraps(function)
        async def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            try:
                if request.method in methods:
                    return await function(request, **kwargs)
                if request.method != "OPTIONS":
                    raise MethodNotAllowed(str(request.method))
                response = HttpResponse(status=204, headers={"Cache-Control": "no-store"})
            except Exception as error:
                if isinstance(error, NotAuthenticated | AuthenticationFailed):
                    error.auth_header = "Bearer"
                if (answer := errors.handle(error)) is None:
                    raise
                response = answer
            response.headers["Allow"] = allowed
            return response

        view.cls, view.initkwargs = description, {}  # type: ignore[attr-defined]  # as DRF's as_view() does
        return view

    return decorate


def has_credentials(request: Request) -> bool:
    """Return True if the request has authenticated, as a user or as something else, such as a signed token."""
    return request.successful_authenticator is not None and (request.auth is not None or request.user.is_authenticated)


def check_readable(request: Request, channel: str) -> None:
    """Raise InvalidChannel, or HTTPError, 403, if the policy does not let the request read `channel`."""
    policy = get_policy()
    if refused := policy.denied_channels(request._request, [validate_channel(channel)]):
        raise HTTPError(403, "forbidden", policy.denied_message(refused))
