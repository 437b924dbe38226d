"""streams.js and its companions as files: their size, their types, and the npm package."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import streams
from tests.support.packages import package
from tests.system.javascript.types import COMPILER_OPTIONS, FOLDER, MODULES, declarations, program, run, write

pytestmark = pytest.mark.once

MAX_BYTES = 4000


def test_streams_js_is_small() -> None:
    """As it is served with compression, comments included."""
    assert len(gzip.compress((FOLDER / "streams.js").read_bytes(), 6)) < MAX_BYTES


def test_types_are_correct_and_current(tmp_path: Path) -> None:
    assert declarations(write(tmp_path)) == declarations(FOLDER / "types"), "python -m tests.system.javascript.types"


def test_package_has_the_version() -> None:
    assert json.loads((FOLDER / "package.json").read_text())["version"] == streams.__version__


CONSUMER = """
import { Stream } from "django-sse-streams";
import { useStream } from "django-sse-streams/vue";
if (typeof useStream !== "function") throw Error("no composable");
globalThis.fetch = async (url) => {
  console.log(String(url));
  return new Response("id: 8\\ndata: hello\\n\\n", { headers: { "Content-Type": "text/event-stream" } });
};
const stream = new Stream("https://example.com/events/?last_event_id=7");
stream.onmessage = ({ data, lastEventId }) => { console.log(data, lastEventId); stream.close(); };
"""

TYPED_CONSUMER = """
import { Stream, type StreamOptions } from "django-sse-streams";
import "django-sse-streams/elements";
const options: StreamOptions = { shared: true, onReset: (event) => console.log(event.data) };
const stream = new Stream("/events/news/", options);
stream.addEventListener("goal", (event) => console.log((event as MessageEvent<string>).data));
const state: "connecting" | "open" | "closed" = stream.state;
// @ts-expect-error
new Stream("/events/news/", { shard: true });
"""


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """Return the folder of a project that has installed what `npm pack` packs. No network is needed."""
    npm = program("npm")
    [packed] = json.loads(run(npm, "pack", FOLDER, "--json", "--pack-destination", tmp_path, cwd=tmp_path))
    names = {file["path"] for file in packed["files"]}
    types = {f"types/{name}.d.ts" for name in MODULES}
    assert names - {"htmx.js"} == {"package.json", *(f"{name}.js" for name in MODULES), *types}
    installed = tmp_path / "node_modules" / "django-sse-streams"
    installed.mkdir(parents=True)
    run("tar", "-xzf", tmp_path / packed["filename"], "--strip-components=1", "-C", installed, cwd=tmp_path)
    (tmp_path / "node_modules" / "vue").symlink_to(package("vue"))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


def test_packed_module_runs_in_node(consumer: Path) -> None:
    (consumer / "main.js").write_text(CONSUMER)
    lines = run(program("node"), "main.js", cwd=consumer).splitlines()
    assert lines == ["https://example.com/events/?last_event_id=7", "hello 8"]


def test_packed_types_are_found(consumer: Path) -> None:
    (consumer / "main.ts").write_text(TYPED_CONSUMER)
    options = {**COMPILER_OPTIONS, "noEmit": True, "skipLibCheck": False}
    (consumer / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["main.ts"]}))
    run(program("node"), package("typescript") / "bin" / "tsc", "-p", consumer, cwd=consumer)


def test_folder_can_be_installed(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    options = ("--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps")
    run(program("npm"), "install", *options, FOLDER, cwd=tmp_path)
    code = "import { Stream } from 'django-sse-streams'; console.log(typeof Stream)"
    assert run(program("node"), "--input-type=module", "-e", code, cwd=tmp_path) == "function\n"
