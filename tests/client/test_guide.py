"""The examples of docs/guides/python-client.md run as they are, except for the address."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.support import ENDED, HEAD, RawServer
from tests.support.sites import PYTHON, ROOT

pytestmark = pytest.mark.once

GUIDE = (ROOT / "docs" / "guides" / "python-client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

BODY = b'event: stream-reset\nid: 1\ndata: {"reason": "pruned"}\n\n' + b'id: 7\ndata: {"a": 1}\n\n'


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("with EventSource", '7 message {"a": 1}\n'),
        ("asyncio.run(main())", '7 message {"a": 1}\n'),
        ("cursor.txt", '{"a": 1}\n'),
        ("start_over", 'Events were missed: pruned\n{"a": 1}\n'),
    ],
)
def test_example_prints_the_events(serve: Callable[..., RawServer], tmp_path: Path, marker: str, expected: str) -> None:
    example = next(code for code in EXAMPLES if marker in code)
    body = BODY if "start_over" in example else BODY.split(b"\n\n", 1)[1]
    server = serve([HEAD, b"retry: 10\n", body], ENDED)
    code = example.replace("https://example.com", f"http://127.0.0.1:{server.port}")
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, text=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (expected, "")
    if marker == "cursor.txt":
        assert (tmp_path / "cursor.txt").read_text() == "7"


def test_every_example_is_python_with_existing_names() -> None:
    assert len(EXAMPLES) > 8
    for code in EXAMPLES:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("streams"):
                exec(ast.unparse(node), {})


def test_defaults_are_as_the_guide_says() -> None:
    """The numbers in its table."""
    from inspect import signature

    from streams.client import EventSource

    defaults = {name: parameter.default for name, parameter in signature(EventSource).parameters.items()}
    assert defaults["timeout_seconds"] == 60
    assert defaults["max_event_characters"] // 1_000_000 == 4
    assert defaults["max_attempts"] is None
