"""The distribution's name on the package index, which differs from the import name."""

from __future__ import annotations

import subprocess
import tomllib

from tests.support.sites import ROOT

NAME = "django-sse-streams"

# Another project's name on the package index. It is written in two parts so that this file does not contain it.
FOREIGN = "django-" + "streams"


def test_distribution_has_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == NAME
    assert f'pip install "{NAME}[api]"' in (ROOT / "docs" / "guides" / "api.md").read_text()


def test_other_projects_name_is_nowhere() -> None:
    """Users would install the other project by mistake. Without Git, search only the files that users read."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    paths = paths or [
        ROOT / "README.md",
        *(p for d in ("docs", "streams", "benchmarks") for p in (ROOT / d).rglob("*")),
    ]
    assert len(paths) > 100
    found = [path for path in paths if path.is_file() and FOREIGN.encode() in path.read_bytes()]
    assert found == []
