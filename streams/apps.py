"""The app's configuration: its name, its system checks, and what processes that stream do besides."""

from django.apps import AppConfig
from django.core import checks
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _


class StreamsConfig(AppConfig):
    name = "streams"
    verbose_name = _("Streams")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.contrib.auth import get_user_model
        from django.contrib.auth.models import Group

        from streams import channels, deliveries, log, presence, redaction, retention, revocation
        from streams.broadcasts.lifecycle import forget_user
        from streams.broadcasts.schedule import send_due_periodically
        from streams.checks import check_database, check_settings
        from streams.conf import settings
        from streams.log_threads import remember_connection
        from streams.references import on_deletion
        from streams.runtime.tasks import PeriodicTask, register

        checks.register(check_settings)
        checks.register(check_database, checks.Tags.database)
        connection_created.connect(remember_connection)
        channels.forget_rules_when_settings_change()
        revocation.connect()
        redaction.install()

        on_deletion(get_user_model(), forget_user)
        on_deletion(get_user_model(), log.forget_publisher)
        on_deletion(get_user_model(), log.forget_addressee)
        on_deletion(Group, channels.forget_group)

        register(PeriodicTask("Pruning", retention.prune_periodically, retention.period_seconds, at_start=False))
        register(PeriodicTask("Writing presence", presence.beat, lambda: settings.PRESENCE_SECONDS))
        register(PeriodicTask("Sending broadcasts", send_due_periodically, lambda: settings.POLL_SECONDS))
        register(PeriodicTask("Counting deliveries", deliveries.count_periodically, deliveries.period_seconds))
