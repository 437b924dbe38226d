"""The admin's page "Why didn't they get it?": a form, and what streams.diagnosis finds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth import get_permission_codename, get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams import diagnosis
from streams.admin.pages import StreamsAdmin
from streams.subscriber import MAX_POSITION_DIGITS

if TYPE_CHECKING:
    _Base = StreamsAdmin
else:
    _Base = object


class WhyForm(forms.Form):
    """Which message, who, and what their client has."""

    message = forms.IntegerField(
        label=gettext_lazy("Event id"),
        min_value=1,
        max_value=10**MAX_POSITION_DIGITS - 1,
        help_text=gettext_lazy("The number of the message in the log."),
        error_messages={"invalid": gettext_lazy("An event id is a whole number, such as 1024.")},
        localize=False,
    )
    user = forms.CharField(
        label=gettext_lazy("User"),
        required=False,
        max_length=254,
        help_text=gettext_lazy(
            "The name they log in with, or their primary key. Empty: somebody who is not signed in."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    last_event_id = forms.CharField(
        label=gettext_lazy("Last event id that the client has"),
        required=False,
        max_length=1000,
        help_text=gettext_lazy(
            "What their browser sends as Last-Event-ID, or the last_event_id in the stream's URL. Empty: it has none, "
            "or you do not know it."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, may_view_users: bool, **kwargs: Any) -> None:
        """`may_view_users`: whether who asks may see who has a primary key, and may so go through all users."""
        super().__init__(*args, **kwargs)
        self.may_view_users = may_view_users
        if not may_view_users:
            self.fields["user"].help_text = _("The name they log in with. Empty: somebody who is not signed in.")

    def clean_user(self) -> Any:
        """The user; an AnonymousUser where none is named."""
        text: str = self.cleaned_data["user"]
        if not text:
            return AnonymousUser()
        users = get_user_model()._default_manager
        found = users.filter(**{get_user_model().USERNAME_FIELD: text}).first()
        if not self.may_view_users:
            if found is None:
                raise ValidationError(_("There is no user with this name."), code="unknown")
            return found
        if found is None:
            with contextlib.suppress(ValueError, TypeError, OverflowError, ValidationError):
                found = users.filter(pk=text).first()
        if found is None:
            raise ValidationError(_("There is no user with this name or primary key."), code="unknown")
        return found

    @property
    def who(self) -> str:
        """How the answer names the user: to who may not view users, as they did; "" for their name."""
        return "" if self.may_view_users else str(self["user"].data or "").strip()


class WhyPage(_Base):
    """The page `why/` of the log."""

    def why_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        # A link from a message names the message alone: it fills in the form, which then is to be looked at.
        asked = "user" in request.GET
        form = WhyForm(
            request.GET if asked else None,
            initial=request.GET.dict(),
            label_suffix="",
            may_view_users=_may_view_users(request),
        )
        findings: list[diagnosis.Finding] | None = None
        if asked and form.is_valid():
            given = form.cleaned_data
            findings = diagnosis.diagnose(
                given["message"],
                request=request,
                user=given["user"],
                who=form.who,
                last_event_id=given["last_event_id"],
            )
        context = {
            "form": form,
            "findings": findings,
            "event": form.cleaned_data["message"] if findings is not None else None,
            "event_url": self.url("event", form.cleaned_data["message"]) if _is_there(findings) else None,
        }
        return self.page(request, "message_why.html", _("Why didn't they get it?"), context)


def _may_view_users(request: HttpRequest) -> bool:
    options = get_user_model()._meta
    return bool(request.user.has_perm(f"{options.app_label}.{get_permission_codename('view', options)}"))


def _is_there(findings: list[diagnosis.Finding] | None) -> bool:
    return findings is not None and findings[0].verdict is diagnosis.Verdict.GOOD
