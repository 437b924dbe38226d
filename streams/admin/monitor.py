"""Being built."""

from __future__ import annotations

from streams.admin.pages import StreamsAdmin


class MonitorAdmin(StreamsAdmin):
    pass
