"""Compare channel names byte by byte, so that all names with the same prefix are one range of an index.

On PostgreSQL, the columns with channel names get the collation "C". The rows are not rewritten, but PostgreSQL builds
the indexes on these columns again and locks each table while it does so. For a log of many millions of messages, this
can take minutes, in which nothing is published or read.

SQLite already compares in this way. Its tables are not touched: Django would copy the whole log to change a column.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

import streams.models.channels
from streams.models.fields import ChannelNameField


class AlterFieldOnPostgreSQL(migrations.AlterField):
    """AlterField that changes nothing in other databases. Django's state of the models changes for all of them."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [
        ("streams", "0007_procedure_for_postgresql"),
    ]

    operations = [
        AlterFieldOnPostgreSQL(
            model_name="channel",
            name="name",
            field=ChannelNameField(max_length=99, primary_key=True, serialize=False, verbose_name="name"),
        ),
        # The table of a channel's groups refers to this column. Django changes its column as well.
        AlterFieldOnPostgreSQL(
            model_name="channelsettings",
            name="channel",
            field=ChannelNameField(
                max_length=99,
                primary_key=True,
                serialize=False,
                validators=[streams.models.channels.check_channel_name],
                verbose_name="channel",
            ),
        ),
        AlterFieldOnPostgreSQL(
            model_name="message",
            name="channel",
            field=ChannelNameField(max_length=99, verbose_name="channel"),
        ),
    ]
