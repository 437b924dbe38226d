"""References to rows of other apps, such as users and groups, which can be in another database than the log.

The database does not enforce them. A foreign key constraint cannot point to another database, and PostgreSQL checks it
at COMMIT with a lock on the user's row: while another session holds that row, a publisher would wait with the log's
lock held, and all other publishers with it. So a reference can outlive its row, and then reads as None.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import models, router, transaction
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor
from django.db.models.signals import post_delete

from streams.databases import database

logger = logging.getLogger("streams")

# django-stubs make them generic; Django itself does not.
if TYPE_CHECKING:
    _ForeignKey = models.ForeignKey[Any, Any]
    _ForwardDescriptor = ForwardManyToOneDescriptor[Any]
else:
    _ForeignKey, _ForwardDescriptor = models.ForeignKey, ForwardManyToOneDescriptor


class _Descriptor(_ForwardDescriptor):
    """Reads the row from its own database, and takes a row of another database by its key."""

    def get_queryset(self, **hints: Any) -> Any:
        # Asked without the hint `instance`, by which Django would take the database of the referring row.
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
        # As Django does, but for its refusal of a row that is in another database.
        for local, foreign in self.field.related_fields:
            setattr(instance, local.attname, getattr(value, foreign.attname))
        self.field.set_cached_value(instance, value)


class Reference(_ForeignKey):
    """A foreign key without a constraint. Its row can be in another database, or be gone; then it reads as None.

    Django leaves it alone when the row is deleted. Call on_deletion() to decide what happens then.
    """

    forward_related_accessor_class = _Descriptor

    def __init__(self, to: Any, on_delete: Any = models.DO_NOTHING, **kwargs: Any) -> None:
        kwargs["db_constraint"] = False
        kwargs.setdefault("related_name", "+")
        super().__init__(to, on_delete, **kwargs)

    def deconstruct(self) -> Any:
        # Migrations need nothing of this class.
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs

    def validate(self, value: Any, model_instance: Any) -> None:
        # Without the instance, for the same reason as in the descriptor.
        super().validate(value, None)


def with_references(rows: models.QuerySet[Any], *names: str) -> models.QuerySet[Any]:
    """Return `rows` so that reading these references needs no further query for each row.

    By a join if the referenced rows are in the same database, by a second query otherwise.
    """
    joined = [name for name in names if router.db_for_write(_target(rows.model, name)) == rows.db]
    if joined:
        rows = rows.select_related(*joined)
    return rows.prefetch_related(*(name for name in names if name not in joined))


def _target(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name).related_model


def on_deletion(model: type[models.Model], forget: Callable[[Any], object]) -> None:
    """Have `forget(primary key)` called when a row of `model` is deleted by Django.

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
        # Proxies as well. Not its children: one that is deleted with keep_parents=True leaves the row.
        if each._meta.concrete_model is model._meta.concrete_model:
            post_delete.connect(deleted, sender=each, weak=False)


def _forget(forget: Callable[[Any], object], key: Any) -> None:
    try:
        forget(key)
    except Exception:
        logger.exception("%s.%s(%r) failed after that row was deleted.", forget.__module__, forget.__qualname__, key)
