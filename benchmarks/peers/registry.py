"""The servers that the comparison measures: one small adapter for each."""

from __future__ import annotations

from benchmarks.peers.apps import BARE, STREAMS, DjangoEventstream, SSEStarlette
from benchmarks.peers.base import Peer
from benchmarks.peers.better_sse import BetterSSE
from benchmarks.peers.nchan import Nchan

PEERS: tuple[Peer, ...] = (*BARE, *STREAMS, DjangoEventstream(), SSEStarlette(), BetterSSE(), Nchan())

# All figures are also reported as ratios to this one, which runs in each round.
REFERENCE = BARE[0]
