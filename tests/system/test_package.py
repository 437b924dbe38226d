"""The wheel has the app and nothing else, the source distribution can be tested, and both can be published."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import streams
from tests.support.sites import BIN, ROOT

pytestmark = pytest.mark.once

# The tests that run in the unpacked source distribution: some of each kind that needs no service.
TESTS = ["tests/protocol", "tests/publishing/test_publish.py", "tests/project/test_distribution.py"]

ADDRESS = re.compile(
    r"https://(?:github\.com/[\w-]+/[\w-]+/blob|raw\.githubusercontent\.com/[\w-]+/[\w-]+)/v([^/]+)/([^#]+)(#.*)?"
)


def test_wheel_has_the_files_of_the_app_and_nothing_else(distribution: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(distribution[0]).namelist() if ".dist-info/" not in name}
    app = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "streams").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == app
    assert {Path(name).suffix for name in names} >= {".py", ".html", ".js", ".css", ".mo", ".typed"}


def test_distribution_can_be_published(distribution: tuple[Path, Path]) -> None:
    done = subprocess.run([BIN / "twine", "check", "--strict", *distribution], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_long_description_has_only_absolute_links(distribution: tuple[Path, Path]) -> None:
    """They lead to files that exist, in this version."""
    metadata = read_metadata(distribution[0])
    assert metadata["Description-Content-Type"] == "text/markdown"
    html = MarkdownIt("commonmark").enable("table").render(str(metadata.get_payload()))
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert len(links) >= 10
    for link in links:
        found = ADDRESS.fullmatch(link)
        assert found, link
        assert found[1] == streams.__version__
        assert (ROOT / found[2]).is_file(), link
    assert "docs/images/replay.svg" in html


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(file.read(name).decode())


@pytest.mark.slow
def test_source_distribution_can_be_tested(distribution: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(distribution[1]) as file:
        file.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    assert not [path for path in folder.rglob("*") if path.name in (".venv", ".env", ".local", "node_modules", ".git")]
    for name in ("Makefile", "noxfile.py", ".ci/run", "project/settings.py", "requirements-dev.lock", "SECURITY.md"):
        assert (folder / name).is_file(), name
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not system", *TESTS]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert re.search(r"\d\d\d passed", done.stdout)
