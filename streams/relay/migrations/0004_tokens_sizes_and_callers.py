# Callers are stored without addresses: what earlier versions stored of them in clear is cleared.

from typing import Any

from django.conf import settings
from django.db import migrations, models
from django.db.models import Q


def clear_callers(apps: Any, schema_editor: Any) -> None:
    """Clear the addresses, and the names of users that were deleted."""
    alias = schema_editor.connection.alias
    # A hash has neither of these characters, an address has one of them.
    is_plain = Q(caller__startswith="address ") & (Q(caller__contains=".") | Q(caller__contains=":"))
    for name in ("Generation", "Usage"):
        apps.get_model("streams_relay", name).objects.using(alias).filter(is_plain).update(caller="address")
    usage = apps.get_model("streams_relay", "Usage").objects.using(alias)
    usage.filter(user=None, caller__startswith="user ").update(caller="")


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("streams_relay", "0003_times_of_the_database"),
    ]

    operations = [
        migrations.AddField(
            model_name="generation",
            name="size",
            field=models.PositiveBigIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="generation",
            name="token_series",
            field=models.PositiveIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddIndex(
            model_name="generation",
            index=models.Index(fields=["caller", "created_at"], name="streams_relay_generation_of"),
        ),
        # Last, because PostgreSQL alters no table of which a transaction has changed rows.
        migrations.RunPython(clear_callers, migrations.RunPython.noop),
    ]
