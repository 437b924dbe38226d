"""The app's configuration: its name, and its system checks."""

from django.apps import AppConfig
from django.core import checks
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _


class StreamsConfig(AppConfig):
    name = "streams"
    verbose_name = _("Streams")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from streams.checks import check_database, check_settings
        from streams.threads import remember_test_connection

        checks.register(check_settings)
        checks.register(check_database, checks.Tags.database)
        connection_created.connect(remember_test_connection)
