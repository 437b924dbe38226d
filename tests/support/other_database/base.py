"""The backend's connection, by the name that Django imports."""

from __future__ import annotations

from django.db.backends.sqlite3.base import DatabaseWrapper as SQLiteWrapper


class DatabaseWrapper(SQLiteWrapper):
    vendor = "mysql"

    @property
    def display_name(self) -> str:
        """Fail, because MySQL's asks the server whether it is MariaDB."""
        raise AssertionError("this would connect")
