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

        from streams import log, redaction
        from streams.access import revocation
        from streams.broadcasts import reach
        from streams.broadcasts.lifecycle import forget_user
        from streams.broadcasts.schedule import send_due_periodically
        from streams.channels import rules
        from streams.checks import check_database, check_settings
        from streams.conf import settings
        from streams.installation.checks import check_server
        from streams.log import figures, retention
        from streams.models.references import on_deletion
        from streams.presence import node_row
        from streams.runtime.tasks import PeriodicTask, register
        from streams.runtime.thread_pool import remember_connection

        checks.register(check_settings)
        checks.register(check_server)
        checks.register(check_database, checks.Tags.database)
        connection_created.connect(remember_connection)
        rules.forget_rules_when_settings_change()
        revocation.connect()
        redaction.install()
        figures.register()

        on_deletion(get_user_model(), forget_user)
        on_deletion(get_user_model(), log.forget_publisher)
        on_deletion(get_user_model(), log.forget_addressee)
        on_deletion(Group, rules.forget_group)

        register(PeriodicTask("Pruning", retention.prune_periodically, retention.period_seconds, at_start=False))
        register(PeriodicTask("Writing presence", node_row.renew_periodically, lambda: settings.PRESENCE_SECONDS))
        register(PeriodicTask("Sending broadcasts", send_due_periodically, lambda: settings.POLL_SECONDS))
        register(PeriodicTask("Counting deliveries", reach.count_periodically, reach.period_seconds))
