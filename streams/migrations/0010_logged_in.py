from __future__ import annotations

from typing import Any

from django.db import migrations, models


def _rename(apps: Any, editor: Any, old: str = "signed-in", new: str = "logged-in") -> None:
    rows = apps.get_model("streams", "ChannelSettings").objects.using(editor.connection.alias)
    rows.filter(access=old).update(access=new)


def _rename_back(apps: Any, editor: Any) -> None:
    _rename(apps, editor, old="logged-in", new="signed-in")


class Migration(migrations.Migration):
    """A channel's readers are called "logged-in" in the database too, as Django calls such users."""

    dependencies = [("streams", "0009_texts")]

    operations = [
        migrations.AlterField(
            model_name="channelsettings",
            name="access",
            field=models.CharField(
                blank=True,
                choices=[
                    ("", "Use the site’s settings and policy"),
                    ("public", "Everyone"),
                    ("logged-in", "Users who are logged in"),
                    ("staff", "Staff"),
                    ("groups", "Members of selected groups"),
                ],
                default="",
                max_length=20,
                verbose_name="readers",
            ),
        ),
        migrations.RunPython(_rename, _rename_back),
    ]
