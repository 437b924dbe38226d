"""References to rows of other apps, such as users and groups, which can be in another database than the log.

The database does not enforce them. A foreign key constraint cannot point to another database, and PostgreSQL checks it
at COMMIT with a lock on the user's row: while another session holds that row, a publisher would wait with the log's
lock held, and all other publishers with it. So a reference can outlive its row, and then reads as None.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import models, router, transaction
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor
from django.db.models.signals import post_delete

from streams.runtime.database import database

logger = logging.getLogger("streams")


# Only django-stubs make it generic.
class _Descriptor(ForwardManyToOneDescriptor):  # type: ignore[type-arg]
    """Reads the row from its own database, and accepts a row of another database."""

    def get_queryset(self, **hints: Any) -> Any:
        # Without the hint `instance`, for which Django would use the database of the referring row.
        queryset = super().get_queryset(**hints)
        return queryset.using(router.db_for_read(queryset.model))

    def get_object(self, instance: Any) -> Any:
        try:
            return super().get_object(instance)
        except ObjectDoesNotExist:
            return None

    def __set__(self, instance: Any, value: Any) -> None:
        if not isinstance(value, self.field.remote_field.model._meta.concrete_model):
            super().__set__(instance, value)  # None, or an error
            return
        # Like Django's own method, except that it accepts a row of another database.
        for local, foreign in self.field.related_fields:
            setattr(instance, local.attname, getattr(value, foreign.attname))
        self.field.set_cached_value(instance, value)


class Reference(models.ForeignKey[Any, Any]):
    """A foreign key without a constraint. Its row can be in another database. If the row is deleted, it reads as None.

    Django does nothing here when the row is deleted. Use on_deletion() to react to it.
    """

    forward_related_accessor_class = _Descriptor

    def __init__(self, to: Any, on_delete: Any = models.DO_NOTHING, **kwargs: Any) -> None:
        kwargs["db_constraint"] = False
        kwargs.setdefault("related_name", "+")
        super().__init__(to, on_delete, **kwargs)

    def deconstruct(self) -> Any:
        # Migrations do not need this class.
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs

    def validate(self, value: Any, model_instance: Any) -> None:
        # Without the instance, for the same reason as in the descriptor.
        super().validate(value, None)


def with_references(rows: models.QuerySet[Any], *names: str) -> models.QuerySet[Any]:
    """Return `rows` with these references loaded: by a join, or by a second query if they are in another database."""
    joined = [name for name in names if router.db_for_write(_target(rows.model, name)) == rows.db]
    if joined:
        rows = rows.select_related(*joined)
    return rows.prefetch_related(*(name for name in names if name not in joined))


def _target(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name).related_model


def on_deletion(model: type[models.Model], forget: Callable[[Any], object]) -> None:
    """Call `forget(primary key)` when Django deletes a row of `model`.

    It runs in the same transaction if the row is in the log's database. Otherwise it runs after the commit, because two
    databases share no transaction; an error is then logged, because the row is gone already.
    """

    def deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
        if using == database():
            forget(instance.pk)
        else:
            # The key as it is now: Django takes it from the instance when it has been deleted.
            transaction.on_commit(partial(_forget, forget, instance.pk), using=using)

    for each in apps.get_models():
        # Proxy models too, but not child models: deleting a child with keep_parents=True keeps the row.
        if each._meta.concrete_model is model._meta.concrete_model:
            post_delete.connect(deleted, sender=each, weak=False)


def _forget(forget: Callable[[Any], object], key: Any) -> None:
    try:
        forget(key)
    except Exception:
        logger.exception("%s.%s(%r) failed after that row was deleted.", forget.__module__, forget.__qualname__, key)
