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
        from streams.broadcasts.schedule import send_due_task
        from streams.checks import check_database, check_settings
        from streams.chores import Chore, register
        from streams.conf import settings
        from streams.log_threads import remember_connection
        from streams.references import on_deletion
        from streams.threads import remember_test_connection

        checks.register(check_settings)
        checks.register(check_database, checks.Tags.database)
        connection_created.connect(remember_test_connection)
        connection_created.connect(remember_connection)
        channels.forget_rules_when_settings_change()
        revocation.connect()
        redaction.install()

        on_deletion(get_user_model(), forget_user)
        on_deletion(get_user_model(), log.forget_publisher)
        on_deletion(get_user_model(), log.forget_addressee)
        on_deletion(Group, channels.forget_group)

        register(Chore("Pruning", retention.prune_as_chore, retention.chore_seconds, at_start=False))
        register(Chore("Telling who listens", presence.beat, lambda: settings.PRESENCE_SECONDS))
        register(Chore("Sending scheduled broadcasts", send_due_task, lambda: settings.POLL_SECONDS))
        register(Chore("Counting reached connections", deliveries.count_task, deliveries.count_interval_seconds))
