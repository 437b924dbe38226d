# The parts of an answer are called chunks.

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("streams_relay", "0004_tokens_sizes_and_callers"),
    ]

    operations = [
        migrations.RenameField(model_name="generation", old_name="pieces", new_name="chunks"),
        migrations.AlterField(
            model_name="generation",
            name="chunks",
            field=models.PositiveIntegerField(default=0, verbose_name="chunks"),
        ),
        migrations.AlterField(
            model_name="generation",
            name="fingerprint",
            field=models.CharField(
                help_text="A hash of the request, to recognize it under the same key.",
                max_length=64,
                verbose_name="fingerprint",
            ),
        ),
        migrations.AlterField(
            model_name="generation",
            name="owner",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                help_text="Empty if the user was not signed in.",
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="owner",
            ),
        ),
        migrations.AlterField(
            model_name="generation",
            name="start_position",
            field=models.PositiveBigIntegerField(
                help_text="The positions of its chunks are greater than this.", verbose_name="start"
            ),
        ),
        migrations.AlterField(
            model_name="usage",
            name="is_estimated",
            field=models.BooleanField(
                default=False,
                help_text="The upstream did not report its tokens, so the chunks of the answer were counted.",
                verbose_name="estimated",
            ),
        ),
    ]
