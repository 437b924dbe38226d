"""What the API's views share: who asks, in what form, and how errors are answered."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.decorators import method_decorator
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from streams import outages
from streams.api import bodies, errors
from streams.api.authentication import SignedTokenAuthentication, bears_unknown_token, unknown_token
from streams.api.negotiation import AlwaysJSON, PlainJSON
from streams.api.schema import StreamsSchema
from streams.databases import non_atomic_requests
from streams.events import validate_channel
from streams.exceptions import HTTPError, InvalidChannel


class JSONRequest(Request):
    """DRF's request, whose body is read by bodies.py."""

    body_rule = bodies.ANONYMOUS  # until the caller has authenticated

    def _parse(self) -> tuple[Any, MultiValueDict[str, Any]]:
        return bodies.read_json(self._request, self.body_rule), MultiValueDict()

    @property
    def POST(self) -> QueryDict:
        """Return an empty form.

        DRF's version would parse the body when SessionAuthentication looks for the CSRF token, which is in a header.
        """
        return QueryDict()


# Published within the request's transaction, messages would have no position yet when the answer says it.
@method_decorator(non_atomic_requests, name="dispatch")
class StreamsAPIView(APIView):
    """A view of this API. The site's authentication, permission and throttle classes hold; its formats do not.

    Policies take Django's request: hand them `request._request`, whose user is the one that DRF has found.
    """

    authentication_classes = [SignedTokenAuthentication, *api_settings.DEFAULT_AUTHENTICATION_CLASSES]
    parser_classes = [JSONParser]  # what the schema says of bodies; see JSONRequest
    renderer_classes = [PlainJSON]
    content_negotiation_class = AlwaysJSON
    versioning_class = None
    metadata_class = None
    asks_database = True  # where it has answered, the database has
    # For the schema's words; who may is decided elsewhere.
    needs_credentials = False
    takes_signed_tokens = True
    takes_small_bodies_only = False
    schema: Any = StreamsSchema()

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        return JSONRequest(
            request,
            parsers=self.get_parsers(),
            authenticators=self.get_authenticators(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)
        if request.user is None:  # where a site's UNAUTHENTICATED_USER is
            request.user = AnonymousUser()
        if request.successful_authenticator is None and bears_unknown_token(request._request):
            raise unknown_token()
        if self.takes_small_bodies_only:
            request.body_rule = bodies.SMALL
        elif has_credentials(request):
            request.body_rule = bodies.BY_SETTING
        user = request.user

        async def auser() -> Any:
            return user

        # For a policy that asks so: else it would judge the session's user, whoever else has authenticated.
        request._request.auser = auser

    def get_exception_handler(self) -> Any:
        return errors.handle

    def options(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        """The methods. A CORS preflight is answered by the site's middleware, before this."""
        return HttpResponse(status=204)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if self.asks_database and response.status_code in (200, 201, 202):
            outages.DATABASE.works()
        response.headers.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)


def has_credentials(request: Request) -> bool:
    """Return True if the request has authenticated, as a user or as something else, such as a signed token."""
    return request.successful_authenticator is not None and (request.auth is not None or request.user.is_authenticated)


def checked_channel(channel: str) -> str:
    """The channel that a URL names. Raises HTTPError: 400."""
    try:
        return validate_channel(channel)
    except InvalidChannel as error:
        raise HTTPError(400, "invalid-channel", str(error)) from None
