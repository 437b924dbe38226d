"""The results of a run: all samples, with the date, the machine and the versions, in one JSON file."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

import streams
from tests.support.sites import ROOT

FOLDER = ROOT / "benchmarks" / "results"  # of the last runs; Git ignores it


@dataclass
class Results:
    kind: str  # "peers" or "scale"
    load: Mapping[str, Any]
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: common_versions())
    skipped: dict[str, str] = field(default_factory=dict)  # by the server's name: how to install it
    samples: dict[str, list[Any]] = field(default_factory=dict)  # by the server's or curve's name: one for each round

    def save(self, folder: Path = FOLDER) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.kind}.json"
        self.machine["load_average_after"] = round(os.getloadavg()[0], 1)
        path.write_text(json.dumps(_rounded(asdict(self)), indent=1, ensure_ascii=False) + "\n")
        return path


def load(path: Path) -> Results:
    return Results(**json.loads(path.read_text()))


def _rounded(value: Any) -> Any:
    """Round all numbers to four digits after the point, so that the file is short enough to read."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load_average_before": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def common_versions() -> dict[str, str]:
    versions = {"Streams": streams.__version__, "python": platform.python_version()}
    # The last commit that changed Streams. A commit of these results is newer, and has the same speed.
    argv = ["git", "log", "-1", "--format=%h", "--", "streams"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if done is not None and done.stdout:
        versions["Streams"] += f" ({done.stdout.strip()})"
    return versions | {name: importlib.metadata.version(name) for name in ("django", "uvloop")}
