"""The relay's configuration: its name, its settings and its system checks."""

from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _


class RelayConfig(AppConfig):
    name = "streams.relay"
    label = "streams_relay"
    verbose_name = _("Chat")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from streams import conf
        from streams.relay.checks import check_upstreams
        from streams.relay.conf import RelaySettings

        conf.register(RelaySettings)
        checks.register(check_upstreams)
