"""Pruning by hand in the admin: a dry run first, then a button that does it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import channels, log, retention
from streams.admin.pages import StreamsAdmin
from streams.conf import settings

logger = logging.getLogger("streams")

# As long as one request may prune; there is a button to go on.
MOST_SECONDS = 20

SHOWN_RETENTIONS = 200
SHOWN_CUTS = 500

if TYPE_CHECKING:
    _Base = StreamsAdmin
else:
    _Base = object


class PruningPage(_Base):
    """The page `prune/` of the log."""

    def may_prune(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and bool(request.user.has_perm("streams.delete_message"))

    def prune_view(self, request: HttpRequest) -> HttpResponse:
        if not self.may_prune(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._prune(request)
        found = []
        for cut in retention.cuts():
            found.append({"reason": _reason(cut), "cut": cut, "messages": cut.messages()})
            if len(found) > SHOWN_CUTS:
                break
        own = sorted(channels.retentions().items())
        context = {
            "cuts": found[:SHOWN_CUTS],
            "more_cuts": len(found) > SHOWN_CUTS,
            "settings": _settings(),
            "own": [{"channel": channel, "retention": kept} for channel, kept in own[:SHOWN_RETENTIONS]],
            "own_left_out": max(0, len(own) - SHOWN_RETENTIONS),
            "most_seconds": MOST_SECONDS,
        }
        return self.page(request, "message_prune.html", _("Prune the log"), context)

    def _prune(self, request: HttpRequest) -> HttpResponse:
        before = log.pruning_marks()
        pruned: int | None = None
        stopped = _(
            "Pruning was stopped by an error, which the site's log has. What it had deleted before that stays deleted."
        )
        try:
            pruned = retention.prune(most_seconds=MOST_SECONDS)
        except Exception:
            logger.exception("Pruning by hand failed.")
        finally:
            # Whatever stopped it, also the end of the process: who has deleted something is on record.
            if pruned is None and log.pruning_marks() != before:
                self._record(request, stopped)
        if pruned is None:
            self.message_user(request, stopped, messages.ERROR)
            return redirect(self.url("prune"))
        text = ngettext("Pruned %(n)d message.", "Pruned %(n)d messages.", pruned) % {"n": pruned}
        if pruned:
            self._record(request, text)
        left = next(retention.cuts(), None) is not None
        if not pruned and not left:
            self.message_user(request, _("There was nothing to prune."), messages.INFO)
            return redirect(self.url("prune"))
        self.message_user(request, text, messages.SUCCESS)
        if left:
            more = _("There is more to prune than one request may take time for. Prune again to go on.")
            self.message_user(request, more, messages.WARNING)
        return redirect(self.url("prune"))

    def _record(self, request: HttpRequest, text: str) -> None:
        from django.contrib.admin.models import DELETION, LogEntry
        from django.contrib.contenttypes.models import ContentType

        # Of no message in particular: without an object's id, the list of recent actions makes no link of it.
        entry = LogEntry(
            user_id=request.user.pk,  # type: ignore[misc]  # staff, and so not nobody
            content_type=ContentType.objects.get_for_model(self.model),
            object_id=None,
            object_repr=_("The log"),
            action_flag=DELETION,
            change_message=text,
        )
        entry.save()


def _reason(cut: retention.Cut) -> str:
    return {"age": _("older than allowed"), "count": _("more than allowed"), "bytes": _("the log is too large")}.get(
        cut.reason, cut.reason
    )


def _settings() -> list[dict[str, Any]]:
    """The site's retention settings, with what each means."""
    meanings = {
        "RETENTION_SECONDS": _("how many seconds a message is kept"),
        "RETENTION_MESSAGES_PER_CHANNEL": _("how many messages a channel keeps"),
        "RETENTION_BYTES": _("how many bytes of data the log keeps, over all channels"),
        "PRUNE_SECONDS": _("how often the site prunes by itself, in seconds"),
    }
    return [{"name": name, "meaning": text, "value": getattr(settings, name)} for name, text in meanings.items()]
