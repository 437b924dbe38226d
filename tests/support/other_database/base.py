"""The backend's connection, by the name that Django imports."""

from __future__ import annotations

from django.db.backends.sqlite3.base import DatabaseWrapper as SQLiteWrapper


class DatabaseWrapper(SQLiteWrapper):
    vendor = "mysql"
    display_name = "MySQL"
