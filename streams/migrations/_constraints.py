"""An operation that migrations share. Django's loader passes over modules whose names start with an underscore."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from django.db.migrations import RunPython


def drop_constraints(model: str, *fields: str) -> RunPython:
    """Drop the constraints of foreign keys that were created with one by an early version of the app.

    Today the tables are created without: a constraint cannot point to a table in another database. So there is nothing
    to do in a new database, and going back creates no constraint.
    """
    return RunPython(partial(_drop, model, fields), RunPython.noop)


def _drop(model_name: str, names: tuple[str, ...], apps: Any, schema_editor: Any) -> None:
    model = apps.get_model(model_name)
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, model._meta.db_table).values()
    constrained = {column for each in found if each["foreign_key"] for column in each["columns"]}
    for field in (model._meta.get_field(name) for name in names):
        if field.column in constrained:
            earlier = copy.copy(field)
            earlier.db_constraint = True
            schema_editor.alter_field(model, earlier, field)
