"""The site's settings. The channel manager is the one that it had before."""

from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.system.eventstream.urls"
EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.system.eventstream.channelmanager.MyChannelManager"
