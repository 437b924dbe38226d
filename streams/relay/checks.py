"""System checks of the relay. The rules for their options are in the upstreams themselves.

streams_relay.E001  An upstream's class, or the class in RELAY_ACCESS, cannot be imported.
streams_relay.E002  An upstream's options are invalid.
streams_relay.E003  The relay's tables and the log are in different databases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import router
from django.utils.module_loading import import_string

from streams.exceptions import InvalidSetting
from streams.relay.conf import settings
from streams.relay.upstreams import get_upstream


def check_database(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E003."""
    from streams.relay.models import Generation, Usage
    from streams.runtime.executor import database

    elsewhere = {router.db_for_write(model) for model in (Generation, Usage)} - {database()}
    return [
        Error(
            f"The relay's tables are in the database {alias!r}, and the log is in {database()!r}. They must be in the "
            "same database, because an answer's chunks and its row are written in one transaction.",
            hint="Route the app `streams_relay` to the database of the app `streams`.",
            id="streams_relay.E003",
        )
        for alias in sorted(elsewhere)
    ]


def check_upstreams(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """E001 and E002."""
    try:
        names, access = list(settings.UPSTREAMS), settings.RELAY_ACCESS
    except InvalidSetting:
        return  # streams.E003 reports it
    try:
        import_string(access)
    except ImportError as error:
        yield Error(f"STREAMS['RELAY_ACCESS'] cannot be loaded: {error}.", id="streams_relay.E001")
    for name in names:
        try:
            get_upstream(name)
        except ImportError as error:
            yield Error(
                f"STREAMS['UPSTREAMS'][{name!r}]['BACKEND'] cannot be loaded: {error}.", id="streams_relay.E001"
            )
        except InvalidSetting as error:
            yield Error(str(error), id="streams_relay.E002")
