"""The tables: the log, channel settings, presence, broadcasts, leases and revoked tokens."""

from streams.models.broadcasts import Broadcast, Delivery
from streams.models.channels import ChannelSettings
from streams.models.leases import Lease
from streams.models.log import Channel, Epoch, LogHead, LogSize, Message, Monitor
from streams.models.presence import Node
from streams.models.tokens import RevokedToken

__all__ = [
    "Broadcast",
    "Channel",
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
