"""A typical database router of a site."""

from __future__ import annotations

from typing import Any

OURS = ("streams", "streams_relay")


class LogRouter:
    """Sends the tables of Streams, and no others, to the database `log`."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "log" if model._meta.app_label in OURS else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "log") == (app_label in OURS)
