"""Presence: count the open streams of all processes.

    presence.audience("news")   # the number of open streams with this channel, in all processes
    presence.nodes()            # the processes

A process counts its own streams in memory and writes the counts to its row every PRESENCE_SECONDS, with one small
statement. So the counts of this process are exact, and those of others are up to PRESENCE_SECONDS old. If streams are
limited over all processes, each process also reads the others' counts (see delivery/limits.py).
"""

from streams.presence.totals import audience, audiences, nodes

__all__ = ["audience", "audiences", "nodes"]
