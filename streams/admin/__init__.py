"""Pages in Django's admin: broadcasts, the live monitor, channels, processes, and the messages in the log.

Each page checks Django's permissions. Users with the permission to view messages or broadcasts see those of all
channels. Sending a broadcast and watching events live also depend on the site's policy.
"""

from django.contrib import admin

from streams.admin.broadcasts.views import BroadcastAdmin
from streams.admin.channels.views import ChannelAdmin
from streams.admin.messages.views import MessageAdmin
from streams.admin.monitor.views import MonitorAdmin
from streams.admin.nodes import NodeAdmin
from streams.models import Broadcast, ChannelSettings, Message, Monitor, Node

__all__ = ["BroadcastAdmin", "ChannelAdmin", "MessageAdmin", "MonitorAdmin", "NodeAdmin"]

admin.site.register(Broadcast, BroadcastAdmin)
admin.site.register(ChannelSettings, ChannelAdmin)
admin.site.register(Message, MessageAdmin)
admin.site.register(Monitor, MonitorAdmin)
admin.site.register(Node, NodeAdmin)
