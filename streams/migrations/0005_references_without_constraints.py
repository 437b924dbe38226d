# References to users and groups have no constraint: they can be in another database.

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from streams.migrations._constraints import drop_constraints


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("streams", "0004_epochs_and_leases"),
    ]

    operations = [
        # The table is that of the many-to-many relation, which has a model of its own from now on.
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="ChannelGroup",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        (
                            "channelsettings",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="+",
                                to="streams.channelsettings",
                            ),
                        ),
                        (
                            "group",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="+",
                                to="auth.group",
                            ),
                        ),
                    ],
                    options={
                        "db_table": "streams_channelsettings_groups",
                        "default_permissions": (),
                        "unique_together": {("channelsettings", "group")},
                    },
                ),
                migrations.AlterField(
                    model_name="channelsettings",
                    name="groups",
                    field=models.ManyToManyField(
                        blank=True,
                        related_name="+",
                        through="streams.ChannelGroup",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
            ]
        ),
        drop_constraints("streams.Message", "published_by"),
        drop_constraints("streams.Broadcast", "created_by", "scheduled_by", "sent_by"),
        drop_constraints("streams.ChannelGroup", "group"),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(
                condition=models.Q(("published_by__isnull", False)),
                fields=["published_by"],
                name="streams_message_publisher",
            ),
        ),
    ]
