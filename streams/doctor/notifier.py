"""Send a notice through the site's notifier, and receive it over a second connection."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing

from django.utils.module_loading import import_string

from streams.conf import settings
from streams.doctor.findings import Findings, ok, problem, warning
from streams.notifiers import BaseNotifier, Notice, Revocation
from streams.notifiers.local import LocalNotifier
from streams.redaction import hide
from streams.runtime.executor import WAITING

# The time limits for connecting, and for the way of a notice.
LISTEN_SECONDS = 10.0
NOTICE_SECONDS = 5.0

REMEDIES = {
    "PostgresNotifier": "Its listener needs a direct connection: in STREAMS['NOTIFIER']['OPTIONS'], write 'dsn' if the "
    "database is behind a pooler.",
    "ChannelLayerNotifier": "Check that Redis runs, and the `hosts` in CHANNEL_LAYERS.",
}


def check() -> Findings:
    """Send a notice with one instance of the notifier, and receive it with another one.

    Both are new, so that the notice cannot take the short way inside this process. It is a revocation of a user and a
    token that do not exist: no process has a stream that it concerns.
    """
    choice = settings.NOTIFIER
    make, options = import_string(choice["BACKEND"]), choice.get("OPTIONS", {})
    name = str(make.__name__)
    marker = f"streams-doctor-{secrets.token_hex(8)}"
    notice = Notice(0, 0, revocation=Revocation(user=marker, token=marker))
    sender = make(**options)
    try:
        seconds = None
        if not isinstance(sender, LocalNotifier):
            seconds = asyncio.run(_round_trip(sender, make(**options), notice))
        if seconds is not None:
            yield ok("notifier", f"A notice by {name} arrived over a second connection after {1000 * seconds:.0f} ms.")
            return
        seconds = asyncio.run(_round_trip(sender, sender, notice))
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        yield problem(
            "notifier",
            f"{name} does not work ({type(cause).__name__}: {hide(str(cause)) or 'no answer in time'}). Processes "
            f"find messages by polling, every {settings.POLL_SECONDS:g} s.",
            REMEDIES.get(name, "Check the OPTIONS of STREAMS['NOTIFIER'], and the server that it uses."),
        )
        return
    if seconds is None:
        yield problem(
            "notifier",
            f"A notice that {name} sent did not arrive within {NOTICE_SECONDS:g} s. Processes find messages by "
            f"polling, every {settings.POLL_SECONDS:g} s.",
            REMEDIES.get(name, "Check the OPTIONS of STREAMS['NOTIFIER'], and the server that it uses."),
        )
    elif isinstance(sender, LocalNotifier):
        yield ok(
            "notifier",
            "LocalNotifier reaches the process that publishes. This is right for one server process that publishes "
            f"itself. Others find messages by polling, every {settings.POLL_SECONDS:g} s.",
        )
    else:
        yield warning(
            "notifier",
            f"{name} reaches only the process that publishes. Others find messages by polling, every "
            f"{settings.POLL_SECONDS:g} s.",
            "Use PostgresNotifier or ChannelLayerNotifier.",
        )


async def _round_trip(sender: BaseNotifier, receiver: BaseNotifier, notice: Notice) -> float | None:
    """Return the seconds until the notice arrived, or None if it did not arrive in time."""
    async with aclosing(receiver.listen()) as notices:
        async with asyncio.timeout(LISTEN_SECONDS):
            if await anext(notices) is not None:
                raise RuntimeError("listen() did not yield None first.")
        began = time.monotonic()
        sending = asyncio.wrap_future(WAITING.submit(sender.notify, notice))
        try:
            async with asyncio.timeout(NOTICE_SECONDS):
                await sending
                while await anext(notices) != notice:
                    pass
        except TimeoutError:
            return None
    return time.monotonic() - began
