"""The benchmark's servers, and its load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bare, files
from benchmarks.peers import apps, better_sse, comparison, nchan
from benchmarks.peers.base import Peer
from benchmarks.peers.measure import Load
from benchmarks.peers.registry import PEERS, REFERENCE
from benchmarks.report.figures import FIGURES
from benchmarks.scale import comparison as scale


def test_payload_has_about_105_bytes() -> None:
    assert len(json.dumps(bare.payload(1234), separators=(",", ":"))) in range(100, 111)


def test_missing_peers_are_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(apps, "PEERS_BIN", tmp_path / "bin")
    monkeypatch.setattr(better_sse, "PACKAGE", tmp_path / "package.json")
    monkeypatch.setattr(nchan, "MODULE", tmp_path / "nchan.so")
    skipped: dict[str, str] = {}
    left = comparison.present(PEERS, skipped)
    assert {one.name.split(",")[0] for one in left} == {"bare ASGI app", "Streams", "Streams with streams.asgi"}
    assert len(skipped) == 4
    printed = capsys.readouterr().err
    for package in ("django-eventstream", "sse-starlette", "better-sse", "libnginx-mod-nchan"):
        assert package in printed
    assert printed.count("SKIPPED: ") == 4


def test_reference_is_always_chosen() -> None:
    assert comparison.chosen(PEERS, ["nchan"])[0] is REFERENCE
    assert [one.name for one in comparison.chosen(PEERS, ["nchan"])[1:]] == ["nchan, nginx"]
    assert comparison.chosen(PEERS, []) == list(PEERS)


def test_failing_server_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def measure(peer: Peer, load: Load, folder: Path) -> dict[str, float]:
        if peer is not REFERENCE:
            raise RuntimeError("It ended at once")
        return {**{figure.key: 1.0 for figure in FIGURES}, "received": 100.0}

    monkeypatch.setattr(comparison, "measure", measure)
    found = comparison.run(Load(connections=1), 2, ["bare"], tmp_path)
    assert {name: len(samples) for name, samples in found.samples.items()} == {REFERENCE.name: 2}
    assert found.skipped["bare ASGI app, daphne"] == "it failed: It ended at once"
    assert "FAILED: bare ASGI app, daphne: It ended at once" in capsys.readouterr().err


def test_too_many_connections_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "raise_limit", lambda: 1024)
    assert files.too_few_for(500) == ""
    assert "`ulimit -n 10256`" in files.too_few_for(10_000)
    with pytest.raises(SystemExit, match="ulimit"):
        comparison.run(Load(connections=10_000))


def test_curves_have_about_the_same_load() -> None:
    for curve in ("connections", "channels", "processes"):
        for point in scale.points(curve):
            assert point.events % point.channels == 0
            deliveries = point.rate * point.connections / point.channels
            assert deliveries <= scale.DELIVERIES or point.rate == 0.5, point


def test_curves_can_be_shortened() -> None:
    assert [point.at for point in scale.points("connections", 10)] == [1, 10]
    assert {point.connections for point in scale.points("channels", 10)} == {10}
