"""The relay's configuration: its name, its settings and its system checks."""

from functools import partial

from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _

REAP_SECONDS = 1.0
COMPACT_SECONDS = 60.0


class RelayConfig(AppConfig):
    name = "streams.relay"
    label = "streams_relay"
    verbose_name = _("Chat")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.contrib.auth import get_user_model

        from streams import conf
        from streams.access import revocation
        from streams.http import shutdown
        from streams.models.references import on_deletion
        from streams.relay import usage
        from streams.relay.checks import check_database, check_upstreams
        from streams.relay.conf import RelaySettings
        from streams.relay.generations import background, housekeeping, owners
        from streams.runtime import executor, readings
        from streams.runtime.readings import Reading
        from streams.runtime.tasks import PeriodicTask, register

        conf.register(RelaySettings)
        text = "Answers that wait for a worker, or that a worker is writing."
        readings.register(Reading("generations", text, housekeeping.count_active, label="state"))
        checks.register(check_upstreams)
        checks.register(check_database)

        on_deletion(get_user_model(), owners.forget_owner)
        on_deletion(get_user_model(), usage.forget_user)

        revocation.on_disconnect(owners.take_back_tokens)

        shutdown.register(background.stop)  # functions of atexit do not run if a signal ends the process
        register(PeriodicTask("Ending abandoned answers", background.reap_periodically, lambda: REAP_SECONDS))
        compact = partial(executor.run, housekeeping.compact, pool=executor.WAITING)
        register(PeriodicTask("Compacting answers", compact, lambda: COMPACT_SECONDS, at_start=False))
