"""The forms of the broadcast desk: what staff write, checked as sending will check it, and when it is to go out."""

from __future__ import annotations

import datetime
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext

from streams import broadcasts, sse
from streams.conf import settings
from streams.events import (
    CONTROL_PREFIX,
    EVENT_TYPE_MAX_LENGTH,
    check_json,
    encode_data,
    validate_event_type,
)
from streams.exceptions import InvalidData, InvalidEventType, InvalidJSON
from streams.models import Broadcast
from streams.models.channels import check_channel_name
from streams.policies import get_policy


class ChannelsField(forms.CharField):
    """Names of channels, separated by spaces or commas, as a list. A script makes it an input with suggestions."""

    def prepare_value(self, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        names = (super().to_python(value) or "").replace(",", " ").split()
        for name in names:
            check_channel_name(name)
        checked = list(dict.fromkeys(names))
        if len(checked) > broadcasts.MAX_CHANNELS:
            problem = _("A broadcast goes to at most %(most)d channels; got %(n)d.")
            raise ValidationError(problem % {"most": broadcasts.MAX_CHANNELS, "n": len(checked)}, code="too-many")
        return checked

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != list(initial or []))
        except ValidationError:
            return True


class PayloadForm(forms.ModelForm):  # type: ignore[type-arg]  # Django's own is no generic
    """Type and payload: what a test to oneself needs."""

    use_required_attribute = False  # the browser's own bubbles would speak before our texts do

    class Meta:
        model = Broadcast
        fields: ClassVar[Any] = ["event", "payload_type", "payload"]
        widgets: ClassVar[Any] = {
            "event": forms.TextInput(attrs={"list": "known-types", "autocomplete": "off", "spellcheck": "false"}),
            "payload_type": forms.RadioSelect,
            "payload": forms.Textarea(attrs={"rows": 10, "spellcheck": "true"}),
        }
        error_messages: ClassVar[Any] = {
            "event": {"required": gettext_lazy("Name a type; “message” is the usual one.")}
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.fields["payload"] = forms.CharField(
            label=gettext_lazy("Payload"),
            strip=False,  # as typed
            widget=self.fields["payload"].widget,
            error_messages={"required": gettext_lazy("Write what is to be sent.")},
        )
        # As the preview's script shows it, and a screen reader reads it: the field's own problem beside it.
        for name, field in self.fields.items():
            described = [f"{name}-problem", *([f"{name}-help"] if field.help_text else [])]
            field.widget.attrs["aria-describedby"] = " ".join(described)
        # Where a JSON payload is broken, for whom wants to jump there.
        self.mistake: InvalidJSON | None = None

    def clean_event(self) -> str:
        try:
            return validate_event_type(self.cleaned_data["event"])
        except InvalidEventType:
            rule = _("A type is one line of 1 to %(most)d characters, and does not begin with “%(prefix)s”.")
            raise ValidationError(
                rule % {"most": EVENT_TYPE_MAX_LENGTH, "prefix": CONTROL_PREFIX}, code="invalid"
            ) from None

    def clean_payload(self) -> str:
        payload = sse.normalize_newlines(self.cleaned_data["payload"])
        most = settings.MAX_MESSAGE_BYTES
        if (size := len(payload.encode(errors="replace"))) > most:
            raise ValidationError(
                ngettext(
                    "A message has at most %(most)d byte; this has %(n)d.",
                    "A message has at most %(most)d bytes; this has %(n)d.",
                    most,
                )
                % {"most": most, "n": size},
                code="too-long",
            )
        try:
            encode_data(payload, max_bytes=most)
        except InvalidData as error:
            raise ValidationError(str(error), code="invalid") from None
        return payload

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("payload_type") == Broadcast.PayloadType.JSON and "payload" in cleaned:
            try:
                check_json(cleaned["payload"])
            except InvalidJSON as error:
                self.mistake = error
                self.add_error("payload", _describe(error))
        return cleaned


# What the parser says, to be found by makemessages.
_MISTAKES = (
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
    gettext_noop("NaN is Python's, and no browser reads it"),
    gettext_noop("Infinity is Python's, and no browser reads it"),
    gettext_noop("-Infinity is Python's, and no browser reads it"),
    gettext_noop("it is nested too deeply to be read; nest it less"),
)


def _describe(error: InvalidJSON) -> str:
    if error.line is None:
        return _("This is not JSON: %(problem)s.") % {"problem": _(error.problem)}
    return _("This is not JSON: %(problem)s, in line %(line)d, column %(column)d.") % {
        "problem": _(error.problem),
        "line": error.line,
        "column": error.column,
    }


class BroadcastForm(PayloadForm):
    """A whole draft. `request`: of the user who writes it, whose policy may allow some channels only."""

    channels = ChannelsField(
        label=gettext_lazy("Channels"),
        help_text=gettext_lazy("One or several, separated by spaces. A new name makes a new channel."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}),
        error_messages={"required": gettext_lazy("Name at least one channel to send to.")},
    )
    revision = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta(PayloadForm.Meta):
        fields: ClassVar[Any] = ["title", "channels", "event", "payload_type", "payload"]
        error_messages: ClassVar[Any] = {
            **PayloadForm.Meta.error_messages,
            "title": {"required": gettext_lazy("Give it a title, to find it again. It is not sent.")},
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
            raise ValidationError(
                _("You may not broadcast to %(channels)s.") % {"channels": ", ".join(refused)}, code="refused"
            )
        return channels


def refused_channels(request: HttpRequest, channels: list[str]) -> list[str]:
    """Those of `channels` to which the policy does not let the request's user broadcast."""
    policy = get_policy()
    return [channel for channel in channels if not policy.can_broadcast(request, channel)]


# Later than anybody means, and early enough that every time zone has such a moment.
LAST_YEAR = 2999


class ScheduleForm(forms.Form):
    """When a broadcast is to go out, in the current time zone."""

    use_required_attribute = False

    send_at = forms.DateTimeField(
        label=gettext_lazy("Send at"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
        widget=forms.DateTimeInput(
            attrs={"type": "datetime-local", "aria-describedby": "send_at-problem send_at-help"},
            format="%Y-%m-%dT%H:%M",
        ),
        error_messages={"required": gettext_lazy("Choose when it is to be sent.")},
    )
    revision = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""

    def clean_send_at(self) -> datetime.datetime:
        moment: datetime.datetime = self.cleaned_data["send_at"]
        if moment.year > LAST_YEAR:
            raise ValidationError(_("Choose a time before the year %(year)d.") % {"year": LAST_YEAR + 1}, code="late")
        return moment
