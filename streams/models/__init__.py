"""The tables: the log, channel settings, presence, broadcasts, leases and revoked tokens."""

from streams.models.broadcasts import Broadcast, Delivery
from streams.models.channels import ChannelGroup, ChannelSettings
from streams.models.log import Channel, Epoch, Lease, LogHead, LogSize, Message, Monitor
from streams.models.presence import Node
from streams.models.tokens import RevokedToken

__all__ = [
    "Broadcast",
    "Channel",
    "ChannelGroup",
    "ChannelSettings",
    "Delivery",
    "Epoch",
    "Lease",
    "LogHead",
    "LogSize",
    "Message",
    "Monitor",
    "Node",
    "RevokedToken",
]
