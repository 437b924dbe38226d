"""Forms for writing and scheduling a broadcast. They apply the same checks as sending does."""

from __future__ import annotations

import datetime
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext

from streams.broadcasts.lifecycle import MAX_CHANNELS
from streams.conf import settings
from streams.exceptions import InvalidData, InvalidEventType, InvalidJSON
from streams.models import Broadcast
from streams.models.channels import check_channel_name
from streams.policies import get_policy
from streams.protocol.events import (
    CONTROL_PREFIX,
    EVENT_TYPE_MAX_LENGTH,
    encode_data,
    normalize_newlines,
    validate_event_type,
)
from streams.protocol.json_bodies import check_json


class ChannelsField(forms.CharField):
    """Channel names, separated by spaces or commas, as a list. A script adds suggestions to the input."""

    def prepare_value(self, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        names = (super().to_python(value) or "").replace(",", " ").split()
        for name in names:
            check_channel_name(name)
        checked = list(dict.fromkeys(names))
        if len(checked) > MAX_CHANNELS:
            rule = _("A broadcast can have at most %(limit)d channels; got %(n)d.")
            raise ValidationError(rule % {"limit": MAX_CHANNELS, "n": len(checked)}, code="too-many")
        return checked

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != list(initial or []))
        except ValidationError:
            return True


class PayloadForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic in Django
    """The event type and the content: all that a test message needs."""

    use_required_attribute = False  # the browser would show its own messages before ours

    payload = forms.CharField(
        label=gettext_lazy("Content"),
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "true"}),
        error_messages={"required": gettext_lazy("Enter the content of the message.")},
    )

    class Meta:
        model = Broadcast
        fields: ClassVar[Any] = ["event", "payload_type", "payload"]
        widgets: ClassVar[Any] = {
            "event": forms.TextInput(attrs={"list": "known-types", "autocomplete": "off", "spellcheck": "false"}),
            "payload_type": forms.RadioSelect,
        }
        error_messages: ClassVar[Any] = {
            "event": {"required": gettext_lazy("Enter an event type. The usual one is “message”.")}
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        # The ids of the elements that show the error and the help text, for screen readers.
        for name, field in self.fields.items():
            described = [f"{name}-problem", *([f"{name}-help"] if field.help_text else [])]
            field.widget.attrs["aria-describedby"] = " ".join(described)
        # The position of the first error in a JSON content, for the button that jumps there.
        self.json_error: InvalidJSON | None = None

    def clean_event(self) -> str:
        try:
            return validate_event_type(self.cleaned_data["event"])
        except InvalidEventType:
            rule = _("An event type is one line of 1 to %(limit)d characters and does not start with “%(prefix)s”.")
            raise ValidationError(
                rule % {"limit": EVENT_TYPE_MAX_LENGTH, "prefix": CONTROL_PREFIX}, code="invalid"
            ) from None

    def clean_payload(self) -> str:
        payload = normalize_newlines(self.cleaned_data["payload"])
        limit = settings.MAX_MESSAGE_BYTES
        if (size := len(payload.encode(errors="replace"))) > limit:
            raise ValidationError(
                ngettext(
                    "A message can have at most %(limit)d byte; this one has %(n)d.",
                    "A message can have at most %(limit)d bytes; this one has %(n)d.",
                    limit,
                )
                % {"limit": limit, "n": size},
                code="too-long",
            )
        try:
            encode_data(payload, max_bytes=limit)
        except InvalidData as error:
            raise ValidationError(str(error), code="invalid") from None
        return payload

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("payload_type") == Broadcast.PayloadType.JSON and "payload" in cleaned:
            try:
                check_json(cleaned["payload"])
            except InvalidJSON as error:
                self.json_error = error
                self.add_error("payload", _describe_json_error(error))
        return cleaned


# The messages of the JSON parser, listed here so that makemessages finds them.
_JSON_ERRORS = (
    gettext_noop("Expecting value"),
    gettext_noop("Expecting property name enclosed in double quotes"),
    gettext_noop("Expecting ':' delimiter"),
    gettext_noop("Expecting ',' delimiter"),
    gettext_noop("Illegal trailing comma before end of object"),
    gettext_noop("Illegal trailing comma before end of array"),
    gettext_noop("Extra data"),
    gettext_noop("Unterminated string starting at"),
    gettext_noop("Invalid control character at"),
    gettext_noop("Invalid \\escape"),
    gettext_noop("Invalid \\uXXXX escape"),
    gettext_noop("NaN is not a JSON value"),
    gettext_noop("Infinity is not a JSON value"),
    gettext_noop("-Infinity is not a JSON value"),
    gettext_noop("it is nested too deeply to be read; nest it less"),
)


def _describe_json_error(error: InvalidJSON) -> str:
    if error.line is None:
        return _("The text is not valid JSON: %(problem)s.") % {"problem": _(error.problem)}
    return _("The text is not valid JSON: %(problem)s (line %(line)d, column %(column)d).") % {
        "problem": _(error.problem),
        "line": error.line,
        "column": error.column,
    }


class BroadcastForm(PayloadForm):
    """A complete draft. `request` identifies the user, because the policy can limit the channels for each user."""

    channels = ChannelsField(
        label=gettext_lazy("Channels"),
        help_text=gettext_lazy("One or more names, separated by spaces. A new name creates a new channel."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}),
        error_messages={"required": gettext_lazy("Enter at least one channel.")},
    )
    revision = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta(PayloadForm.Meta):
        fields: ClassVar[Any] = ["title", "channels", "event", "payload_type", "payload"]
        error_messages: ClassVar[Any] = {
            **PayloadForm.Meta.error_messages,
            "title": {
                "required": gettext_lazy("Enter a title, so that you can find the broadcast again. It is not sent.")
            },
        }

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        self.fields["channels"].widget.attrs["aria-describedby"] += " warnings"
        if self.instance.pk:
            self.initial["revision"] = self.instance.revision

    def clean_channels(self) -> list[str]:
        channels: list[str] = self.cleaned_data["channels"]
        if refused := refused_channels(self.request, channels):
            raise ValidationError(describe_refusal(refused), code="refused")
        return channels


def refused_channels(request: HttpRequest, channels: list[str]) -> list[str]:
    """Return the channels to which the policy does not let the request's user broadcast."""
    policy = get_policy()
    return [channel for channel in channels if not policy.can_broadcast(request, channel)]


def describe_refusal(refused: list[str]) -> str:
    return _("You do not have permission to broadcast to %(channels)s.") % {"channels": ", ".join(refused)}


# Every time zone can represent dates up to this year.
LAST_YEAR = 2999


class ScheduleForm(forms.Form):
    """The time at which to send a broadcast, in the current time zone."""

    use_required_attribute = False

    send_at = forms.DateTimeField(
        label=gettext_lazy("Send at"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
        widget=forms.DateTimeInput(
            attrs={"type": "datetime-local", "aria-describedby": "send_at-problem send_at-help"},
            format="%Y-%m-%dT%H:%M",
        ),
        error_messages={"required": gettext_lazy("Choose a date and a time.")},
    )
    revision = forms.IntegerField(widget=forms.HiddenInput)

    def clean_send_at(self) -> datetime.datetime:
        moment: datetime.datetime = self.cleaned_data["send_at"]
        if moment.year > LAST_YEAR:
            raise ValidationError(_("Choose a time before the year %(year)d.") % {"year": LAST_YEAR + 1}, code="late")
        return moment
