# References to users have no constraint: users can be in another database.

from django.conf import settings
from django.db import migrations

from streams.migrations._constraints import drop_constraints


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("streams_relay", "0001_initial"),
    ]

    operations = [
        drop_constraints("streams_relay.Generation", "owner"),
        drop_constraints("streams_relay.Usage", "user"),
    ]
