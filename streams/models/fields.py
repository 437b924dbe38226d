"""The column type of channel names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

# django-stubs make the class generic; Django itself does not.
if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField


class ChannelNameField(_CharField):
    """A channel name, which the database compares byte by byte.

    Names that start with the same prefix are then neighbors in an index, and sorted as by Python's `sorted()`.
    PostgreSQL needs the collation "C" for this. SQLite compares in this way by default (BINARY).

    Django's own `db_collation` takes one name for all databases, and these two have no name in common.
    """

    def db_parameters(self, connection: Any) -> Any:
        parameters = super().db_parameters(connection)
        return {**parameters, "collation": "C"} if connection.vendor == "postgresql" else parameters
