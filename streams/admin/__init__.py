"""Streams in Django's admin: the broadcast desk, the live monitor, channels, processes and the log.

An integration: it imports the core, which never imports it. Each page is under Django's permissions. Who may view
messages or broadcasts sees those of all channels; sending broadcasts and watching events live are under the policy too.
"""

from django.contrib import admin

from streams.admin.broadcasts import BroadcastAdmin
from streams.admin.channels import ChannelAdmin
from streams.admin.messages import MessageAdmin
from streams.admin.monitor import MonitorAdmin
from streams.admin.nodes import NodeAdmin
from streams.models import Broadcast, ChannelSettings, Message, Monitor, Node

__all__ = ["BroadcastAdmin", "ChannelAdmin", "MessageAdmin", "MonitorAdmin", "NodeAdmin"]

admin.site.register(Broadcast, BroadcastAdmin)
admin.site.register(ChannelSettings, ChannelAdmin)
admin.site.register(Message, MessageAdmin)
admin.site.register(Monitor, MonitorAdmin)
admin.site.register(Node, NodeAdmin)
