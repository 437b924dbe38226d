"""The channel manager of django-eventstream's README, with its import swapped."""

# mypy: ignore-errors
from streams.eventstream import DefaultChannelManager  # was: django_eventstream.channelmanager


class MyChannelManager(DefaultChannelManager):
    def can_read_channel(self, user, channel):
        # require auth for prefixed channels
        if channel.startswith("_") and user is None:  # noqa: SIM103 - as in the README
            return False
        return True
