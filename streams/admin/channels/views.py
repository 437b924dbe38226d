"""Channels in the admin: all that are known, and a page for each with its facts and its settings."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern
from django.utils.translation import gettext as _

from streams import presence, survey
from streams.admin import channel_facts
from streams.admin.channel_access import PERMISSION, admits_more, rule_of
from streams.admin.channel_form import AdmitsMore, ChangedMeanwhile, ChannelForm, digest_of, forget
from streams.admin.pages import StreamsAdmin, stream_url
from streams.channels import groups_of, rule_decides
from streams.conf import settings
from streams.events import CHANNEL_MAX_LENGTH, validate_channel
from streams.exceptions import InvalidChannel
from streams.models import ChannelSettings, Message
from streams.policies import DefaultPolicy, get_policy
from streams.threads import database

PAGE_CHANNELS = 50
NEWEST_MESSAGES = 5
SHOWN_CHARACTERS = 300

_PART_OF_NAME = re.compile(rf"[A-Za-z0-9._-]{{0,{CHANNEL_MAX_LENGTH}}}")

# A browser takes `/./` and `/../` out of a path. quote() never gives these, for it writes `_` as `_5F`.
_DOTS = {".": "_2E", "..": "_2E_2E"}
_DOTS_BACK = {quoted: name for name, quoted in _DOTS.items()}


class ChannelAdmin(StreamsAdmin):
    """Every channel has a page, whether or not something is settled for it."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.own_page("", self.changelist_view, "changelist"),
            self.own_page("<path:object_id>/history/", self.history_view, "history"),
            self.own_page("<path:object_id>/delete/", self.reset_view, "delete"),
            self.own_page("<path:object_id>/change/", self.channel_view, "change"),
        ]

    def url_of_channel(self, channel: str, page: str = "change") -> str:
        """The URL of a channel's page."""
        return self.url(page, _DOTS.get(channel) or quote(channel))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ChannelSettings | None:
        """The settings of the channel of that name; None where it has none."""
        return ChannelSettings.objects.using(database()).filter(channel=object_id).first()

    # --- The list ---

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        after, prefix = request.GET.get("after", ""), request.GET.get("q", "").strip()
        listened = presence.channels()
        names: list[str] = []
        if _PART_OF_NAME.fullmatch(after) and _PART_OF_NAME.fullmatch(prefix):
            names = survey.known_names(listened, after=after, prefix=prefix, limit=PAGE_CHANNELS + 1)
        shown = names[:PAGE_CHANNELS]
        facts = channel_facts.facts(shown, listened)
        following = {"after": shown[-1], **({"q": prefix} if prefix else {})} if len(names) > len(shown) else None
        context = {
            "channels": [(fact, self.url_of_channel(fact.name)) for fact in facts],
            "count_to": channel_facts.COUNT_TO,
            "after": after,
            "q": prefix,
            "first_url": f"?{urlencode({'q': prefix})}" if prefix else self.url("changelist"),
            "next_url": f"?{urlencode(following)}" if following else "",
            "named_url": self.url_of_channel(prefix) if _is_name(prefix) and prefix not in shown else "",
            "site_retention": channel_facts.site_retention_in_words(),
        }
        return self.page(request, "channel_list.html", _("Channels"), context)

    # --- One channel ---

    def channel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        channel = _named(object_id)
        row = self.get_object(request, channel)
        # Also for a channel for which nothing is settled yet: what one may change, one may begin.
        may_save = self.has_change_permission(request, row)
        may_admit_more = request.user.has_perm(PERMISSION)
        form, seen, status = None, digest_of(row), 200
        if request.method == "POST":
            if not may_save:
                raise PermissionDenied
            instance = row or ChannelSettings(channel=channel)
            form = ChannelForm(request.POST, instance=instance, may_admit_more=may_admit_more)
            seen, status = request.POST.get("seen", ""), 422
            if form.is_valid():
                try:
                    self._store(request, form, seen)
                    return redirect(self.url_of_channel(channel))
                except ChangedMeanwhile:
                    status = 409
                except AdmitsMore:
                    form.add_error("access", _admits_more_words())
            row = self.get_object(request, channel)  # the form has put what was posted into the other one
            if status == 409:
                seen = digest_of(row)  # it is shown now, and may be overwritten
        elif may_save:
            form = ChannelForm(instance=row or ChannelSettings(channel=channel), may_admit_more=may_admit_more)
        context = {
            **self._channel_context(request, channel, row, form),
            "seen": seen,
            "stored": channel_facts.settled_in_words(row) if status == 409 else None,
        }
        return self.page(
            request, "channel.html", _("Channel %(channel)s") % {"channel": channel}, context, status=status
        )

    def _store(self, request: HttpRequest, form: ChannelForm, seen: str) -> None:
        """Store the form, and note who did it. Raises what ChannelForm.store() raises."""
        is_new = form.store(seen)
        changed: Any = form
        told = self.construct_change_message(request, changed, [], add=is_new)
        if is_new:
            self.log_addition(request, form.instance, told)
        elif form.has_changed():
            self.log_change(request, form.instance, told)
        words = _(
            "Saved. This process obeys at once, others within %(seconds)s s. "
            "Open streams of those who may not read any more end."
        )
        messages.success(request, words % {"seconds": f"{settings.POLL_SECONDS:g}"})

    def _channel_context(
        self, request: HttpRequest, channel: str, row: ChannelSettings | None, form: ChannelForm | None
    ) -> dict[str, Any]:
        sees_messages = request.user.has_perm("streams.view_message")
        newest: list[tuple[Message, str]] = []
        if sees_messages:
            stored = Message.objects.using(database()).filter(channel=channel, position__isnull=False)
            newest = [
                (message, self.url_of("message", "change", message.pk))
                for message in stored.order_by("-position")[:NEWEST_MESSAGES]
            ]
        query = urlencode({"channel": channel})
        stream = stream_url()
        return {
            "fact": channel_facts.facts_of(channel),
            "row": row,
            "groups": [str(group) for group in groups_of(channel)] if row and rule_decides(channel) else [],
            "opens_nothing": bool(row and row.access) and not rule_decides(channel),
            "form": form,
            "count_to": channel_facts.COUNT_TO,
            "poll_seconds": f"{settings.POLL_SECONDS:g}",
            "sees_messages": sees_messages,
            "newest": newest,
            "shown_characters": SHOWN_CHARACTERS,
            "monitor_url": f"{self.url_of('monitor', 'changelist')}?{query}" if sees_messages else "",
            "messages_url": f"{self.url_of('message', 'changelist')}?{query}" if sees_messages else "",
            "subscribe_url": request.build_absolute_uri(f"{stream}?{query}") if stream else "",
            "own_policy": "" if isinstance(get_policy(), DefaultPolicy) else settings.POLICY,
            "history_url": self.url_of_channel(channel, "history") if row else "",
            "reset_url": self.url_of_channel(channel, "delete") if row and self.has_delete_permission(request) else "",
            "parent": {"title": _("Channels"), "url": self.url("changelist")},
        }

    def reset_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask, and then delete the channel's settings."""
        if not (self.has_view_permission(request) and self.has_delete_permission(request)):
            raise PermissionDenied
        channel = _named(object_id)
        row = self.get_object(request, channel)
        if row is None:
            messages.info(
                request, _("Nothing is settled for %(channel)s: the site’s settings hold.") % {"channel": channel}
            )
            return redirect(self.url_of_channel(channel))
        may_admit_more = request.user.has_perm(PERMISSION)
        is_refused = not may_admit_more and admits_more(channel, None, rule_of(row))
        if request.method == "POST" and not is_refused:
            try:
                forget(channel, may_admit_more=may_admit_more)
            except AdmitsMore:  # the settings were made stricter since they were read above
                is_refused = True
        if request.method == "POST" and not is_refused:
            rows: Any = [row]
            self.log_deletions(request, rows)
            messages.success(
                request, _("Reset. The site’s settings hold for %(channel)s again.") % {"channel": channel}
            )
            return redirect(self.url_of_channel(channel))
        context = {
            "fact": channel_facts.facts_of(channel),
            "row": row,
            "site_retention": channel_facts.site_retention_in_words(),
            "channel_url": self.url_of_channel(channel),
            "poll_seconds": f"{settings.POLL_SECONDS:g}",
            "refusal": _admits_more_words() if is_refused else "",
            "parent": {"title": channel, "url": self.url_of_channel(channel)},
        }
        status = 403 if request.method == "POST" else 200
        return self.page(request, "channel_reset.html", _("Reset to the site’s settings"), context, status=status)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Who has settled what, by the admin's own page."""
        return super().history_view(request, quote(_named(object_id)), extra_context)


def _admits_more_words() -> str:
    return _(
        "More people could read the channel than now. For that you also need the permission “Can view message”. "
        "Without it, you can only let fewer people read."
    )


def _is_name(text: str) -> bool:
    return bool(text) and bool(_PART_OF_NAME.fullmatch(text))


def _named(object_id: str) -> str:
    """The channel that a URL names, or Http404."""
    try:
        return validate_channel(_DOTS_BACK.get(object_id) or unquote(object_id))
    except InvalidChannel as error:
        raise Http404(str(error)) from None
