"""The page that prunes the log. It first shows what would be deleted."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import log
from streams.admin.pages import StreamsAdmin
from streams.channels import rules
from streams.conf import settings
from streams.log import retention

logger = logging.getLogger("streams")

# The time limit of one request. The user can then continue with the same button.
MAX_SECONDS = 20

SHOWN_RETENTIONS = 200
SHOWN_CUTS = 500


class PruningViews(StreamsAdmin):
    """The page `prune/` of the messages."""

    def can_prune(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and bool(request.user.has_perm("streams.delete_message"))

    def prune_view(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            return self._prune(request)
        found = []
        for cut in retention.cuts():
            found.append({"reason": _reason(cut), "cut": cut, "messages": cut.messages()})
            if len(found) > SHOWN_CUTS:
                break
        own = sorted(rules.retentions().items())
        context = {
            "cuts": found[:SHOWN_CUTS],
            "more_cuts": len(found) > SHOWN_CUTS,
            "settings": _settings(),
            "own": [{"channel": channel, "retention": kept} for channel, kept in own[:SHOWN_RETENTIONS]],
            "own_omitted": max(0, len(own) - SHOWN_RETENTIONS),
            "max_seconds": MAX_SECONDS,
        }
        return self.render_page(request, "messages/prune.html", _("Delete expired messages"), context)

    def _prune(self, request: HttpRequest) -> HttpResponse:
        before = log.pruning_marks()
        stopped = _(
            "An error stopped the deletion. Messages that were deleted before the error stay deleted. See the site’s "
            "log for the reason."
        )
        try:
            pruned = retention.prune(max_seconds=MAX_SECONDS)
        except BaseException as error:
            # Record who deleted messages even if this is interrupted, for example by a shutdown.
            if log.pruning_marks() != before:
                self._record(request, stopped)
            if not isinstance(error, Exception):
                raise
            logger.exception("Pruning from the admin failed.")
            self.message_user(request, stopped, messages.ERROR)
            return redirect(self.url("prune"))
        text = ngettext("Deleted %(n)d message.", "Deleted %(n)d messages.", pruned) % {"n": pruned}
        if pruned:
            self._record(request, text)
        has_more = next(retention.cuts(), None) is not None
        if not pruned and not has_more:
            self.message_user(request, _("There were no expired messages."), messages.INFO)
            return redirect(self.url("prune"))
        self.message_user(request, text, messages.SUCCESS)
        if has_more:
            more = _("There are more expired messages than one request can delete. Delete again to continue.")
            self.message_user(request, more, messages.WARNING)
        return redirect(self.url("prune"))

    def _record(self, request: HttpRequest, text: str) -> None:
        # Without an object id, the list of recent actions shows the entry without a link.
        LogEntry.objects.create(
            user_id=request.user.pk,  # type: ignore[misc]  # a staff user always has one
            content_type=ContentType.objects.get_for_model(self.model),
            object_id=None,
            object_repr=_("The log"),
            action_flag=DELETION,
            change_message=text,
        )


def _reason(cut: retention.Cut) -> str:
    return {"age": _("too old"), "count": _("too many"), "bytes": _("the log is too large")}.get(cut.reason, cut.reason)


def _settings() -> list[dict[str, Any]]:
    """Return the site's retention settings, each with its meaning and value."""
    meanings = {
        "RETENTION_SECONDS": _("how long messages are kept, in seconds"),
        "RETENTION_MESSAGES_PER_CHANNEL": _("maximum number of messages in a channel"),
        "RETENTION_BYTES": _("maximum size of the log for all channels, in bytes"),
        "PRUNE_SECONDS": _("how often expired messages are deleted automatically, in seconds"),
    }
    return [{"name": name, "meaning": text, "value": getattr(settings, name)} for name, text in meanings.items()]
