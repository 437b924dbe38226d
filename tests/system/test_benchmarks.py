"""The benchmark's command with tiny numbers, with all servers that are installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.peers.registry import PEERS
from benchmarks.report import results
from benchmarks.report.figures import FIGURES
from tests.support.services import missing, postgres
from tests.support.sites import PYTHON, ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [PYTHON, "-m", "benchmarks", *arguments, "--results", str(folder)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)


def test_peers_are_compared(tmp_path: Path) -> None:
    numbers = ["--rounds", "1", "--connections", "5", "--events", "3", "--burst", "20"]
    servers = ["Streams, uvicorn", "eventstream", "starlette", "better", "nchan"]
    done = run(tmp_path, *numbers, *(part for name in servers for part in ("--only", name)))
    found = results.load(tmp_path / "peers.json")
    chosen = [one for one in PEERS if one.name.startswith("bare ASGI app, uv") or any(s in one.name for s in servers)]
    assert [*found.samples] == [one.name for one in chosen if not one.missing()]
    assert {*found.skipped} == {one.name for one in chosen if one.missing()}
    for name, [sample] in found.samples.items():
        assert {figure.key for figure in FIGURES} < sample.keys()
        assert sample["burst_rate"] > 0, name
        assert sample["p50"] > 0, name
        if "eventstream" not in name:  # it can repeat events in a burst
            assert sample["received"] == 100, name
        assert f"| {name} | " in done.stdout


def test_curves_are_measured(tmp_path: Path) -> None:
    if postgres.programs() is None:
        missing("PostgreSQL", "postgresql")
    run(tmp_path, "scale", "--curve", "channels", "--curve", "processes", "--rounds=1", "--most=2", "--seconds=1")
    samples = json.loads((tmp_path / "scale.json").read_text())["samples"]
    assert [point["at"] for point in samples["processes: Streams, PostgreSQL"][0]] == [1, 2]
    assert samples.keys() >= {"channels: Streams", "channels: bare ASGI app"}
    assert all(point["p50"] > 0 for rounds in samples.values() for points in rounds for point in points)
