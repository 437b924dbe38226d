"""The page "Why was it not received?": a form, and the findings of diagnose()."""

from __future__ import annotations

import contextlib
from typing import Any

from django import forms
from django.contrib.auth import get_permission_codename, get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams.admin.diagnosis.diagnose import diagnose
from streams.admin.diagnosis.findings import Verdict
from streams.admin.pages import StreamsAdmin
from streams.protocol.sse import MAX_POSITION_DIGITS


class DiagnosisForm(forms.Form):
    """The message, the user, and the last event id of the user's client."""

    message = forms.IntegerField(
        label=gettext_lazy("Event id"),
        min_value=1,
        max_value=10**MAX_POSITION_DIGITS - 1,
        help_text=gettext_lazy("The number of the message in the log."),
        error_messages={"invalid": gettext_lazy("Enter a whole number, such as 1024.")},
    )
    user = forms.CharField(
        label=gettext_lazy("User"),
        required=False,
        max_length=254,
        help_text=gettext_lazy("The username or the primary key. Leave empty for a visitor who is not logged in."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    last_event_id = forms.CharField(
        label=gettext_lazy("Last event id of the client"),
        required=False,
        max_length=1000,
        help_text=gettext_lazy(
            "The browser sends it as Last-Event-ID, or as last_event_id in the stream’s URL. Leave empty if there is "
            "none, or if you do not know it."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, can_view_users: bool, **kwargs: Any) -> None:
        """`can_view_users` allows primary keys, with which the form's user could list all users."""
        super().__init__(*args, **kwargs)
        self.can_view_users = can_view_users
        if not can_view_users:
            self.fields["user"].help_text = _("The username. Leave empty for a visitor who is not logged in.")

    def clean_user(self) -> Any:
        """Return the user; AnonymousUser if the field is empty."""
        text: str = self.cleaned_data["user"]
        if not text:
            return AnonymousUser()
        users = get_user_model()._default_manager
        found = users.filter(**{get_user_model().USERNAME_FIELD: text}).first()
        problem = _("No user has this username.")
        if found is None and self.can_view_users:
            problem = _("No user has this username or primary key.")
            with contextlib.suppress(ValueError, TypeError, OverflowError, ValidationError):
                found = users.filter(pk=text).first()
        if found is None:
            raise ValidationError(problem, code="unknown")
        return found

    @property
    def user_label(self) -> str:
        """How the findings name the user: as entered, if the form's user cannot view users; "" for the username."""
        return "" if self.can_view_users else str(self["user"].data or "").strip()


class DiagnosisViews(StreamsAdmin):
    """The page `diagnosis/` of the messages."""

    def diagnosis_view(self, request: HttpRequest) -> HttpResponse:
        # The page of a message links here with the event id only, to fill in the form without submitting it.
        is_submitted = "user" in request.GET
        form = DiagnosisForm(
            request.GET if is_submitted else None,
            initial=request.GET.dict(),
            label_suffix="",
            can_view_users=_can_view_users(request),
        )
        context: dict[str, Any] = {"form": form}
        if is_submitted and form.is_valid():
            position, user = form.cleaned_data["message"], form.cleaned_data["user"]
            cursor = form.cleaned_data["last_event_id"]
            findings = diagnose(position, request=request, user=user, user_label=form.user_label, last_event_id=cursor)
            context.update(event=position, findings=findings)
            if findings[0].verdict is Verdict.GOOD:  # it is in the log
                context["event_url"] = self.url("event", position)
        return self.render_page(request, "diagnosis/page.html", _("Why was it not received?"), context)


def _can_view_users(request: HttpRequest) -> bool:
    options = get_user_model()._meta
    return bool(request.user.has_perm(f"{options.app_label}.{get_permission_codename('view', options)}"))
