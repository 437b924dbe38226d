"""The tables: the log's, the channels' settings, the processes that stream, the broadcasts, and the
revoked tokens."""

from streams.models.broadcasts import Broadcast, Delivery
from streams.models.channels import ChannelSettings
from streams.models.log import Channel, LogHead, Message, Monitor
from streams.models.presence import Node
from streams.models.tokens import RevokedToken

__all__ = [
    "Broadcast",
    "Channel",
    "ChannelSettings",
    "Delivery",
    "LogHead",
    "Message",
    "Monitor",
    "Node",
    "RevokedToken",
]
