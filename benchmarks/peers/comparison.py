"""Peers: the cost of streams and of deliveries on all servers that are installed, in turn and several times."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import files, rig
from benchmarks.peers.base import Peer
from benchmarks.peers.measure import Load, measure
from benchmarks.peers.registry import PEERS, REFERENCE
from benchmarks.report import tables
from benchmarks.report.results import FOLDER, Results

ROUNDS = 5


def chosen(peers: Sequence[Peer], only: Sequence[str]) -> list[Peer]:
    """Return the servers whose names contain one of the texts, and the reference. Without a text, return all."""
    return [one for one in peers if one is REFERENCE or not only or any(text in one.name for text in only)]


def present(peers: Sequence[Peer], skipped: dict[str, str]) -> list[Peer]:
    """Return the servers that are installed. Say which are not, and how to install them."""
    for peer in peers:
        if remedy := peer.missing():
            print(f"SKIPPED: {peer.name} is not installed; {remedy}.", file=sys.stderr, flush=True)
            skipped[peer.name] = remedy
    return [peer for peer in peers if peer.name not in skipped]


def run(load: Load, rounds: int = ROUNDS, only: Sequence[str] = (), folder: Path = FOLDER) -> Results:
    if reason := files.too_few_for(load.connections):
        raise SystemExit(reason)
    results = Results("peers", {"rounds": rounds, **asdict(load)})
    peers = present(chosen(PEERS, only), results.skipped)
    with contextlib.ExitStack() as stack:
        folders = {}
        for peer in peers:
            results.versions |= peer.versions()
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
            peer.prepare(path)
            folders[peer.name] = path
            results.samples[peer.name] = []
        for number in range(rounds):
            # Every other round runs backwards, so that load that grows or falls affects all servers alike.
            for peer in peers if number % 2 == 0 else reversed(peers):
                if peer.name in results.skipped:
                    continue
                print(f"Round {number + 1} of {rounds}: {peer.name} …", file=sys.stderr, flush=True)
                try:
                    results.samples[peer.name].append(measure(peer, load, folders[peer.name]))
                except rig.FAILURES as error:
                    # The others' samples are worth keeping, after most of an hour.
                    results.skipped[peer.name] = f"it failed: {error}"
                    print(f"FAILED: {peer.name}: {error}", file=sys.stderr, flush=True)
                    del results.samples[peer.name]
            results.save(folder)  # so that an interrupted run leaves something
    print(f"Wrote {results.save(folder)}", file=sys.stderr)
    print(report(results))
    return results


def report(results: Results) -> str:
    """Return all tables of the comparison, and what a reader needs to know about the run."""
    shown = (tables.DELIVERY, tables.STREAMS, tables.LATENCY)
    parts = [tables.peers(results, keys, REFERENCE.name) for keys in shown]
    return "\n".join([part for part in (*parts, tables.inexact(results), tables.conditions(results)) if part])
