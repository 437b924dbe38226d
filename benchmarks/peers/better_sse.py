"""better-sse on Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.base import Peer

HERE = Path(__file__).parent
PACKAGE = HERE / "node_modules" / "better-sse" / "package.json"


class BetterSSE(Peer):
    name, path = "better-sse, Node", "/"

    def missing(self) -> str:
        if shutil.which("node") is None:
            return "`apt-get install nodejs npm` brings Node, and then `make bench` installs better-sse from npm"
        return "" if PACKAGE.exists() else "`make bench` installs better-sse from npm"

    def versions(self) -> Mapping[str, str]:
        node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
        return {"better-sse": json.loads(PACKAGE.read_text())["version"], "node": node.strip().removeprefix("v")}

    def command(self, port: int, folder: Path) -> list[str]:
        return ["node", str(HERE / "better_sse_server.js"), str(port)]
