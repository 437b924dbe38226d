"""The distribution's name on the package index, which differs from the import name, and its description there.

tests/system/test_package.py builds the distribution and looks into it.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import tomllib

import noxfile
import streams
from tests.support.sites import ROOT

NAME = "django-sse-streams"

# Another project's name on the package index. It is written in two parts so that this file does not contain it.
FOREIGN = "django-" + "streams"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_distribution_has_its_name() -> None:
    assert PROJECT["name"] == NAME
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


def test_changelog_starts_with_this_version_and_its_date() -> None:
    [heading, *_] = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version, date = heading.split()
    assert version == streams.__version__
    assert datetime.date.fromisoformat(date.strip("()")) >= datetime.date(2026, 11, 30)


def test_classifiers_are_the_tested_versions() -> None:
    named = {name.rpartition(" :: ")[0]: set() for name in PROJECT["classifiers"]}
    for name in PROJECT["classifiers"]:
        named[name.rpartition(" :: ")[0]].add(name.rpartition(" :: ")[2])
    assert named["Programming Language :: Python"] >= {python for python, _ in noxfile.PAIRS}
    assert {name for name in named["Framework :: Django"] if "." in name} == {django for _, django in noxfile.PAIRS}


def test_project_is_at_one_address() -> None:
    """The documents, the workflow and the metadata link to the same repository."""
    files = [ROOT / name for name in ("pyproject.toml", "SECURITY.md", "CONTRIBUTING.md", "README.md")]
    text = "".join(path.read_text() for path in files)
    owners = set(re.findall(rf"(?:github|githubusercontent)\.com/([\w-]+)/{NAME}", text))
    assert owners == {NAME}
    assert set(PROJECT["urls"]) >= {"Documentation", "Source", "Issues", "Changelog", "Security"}
    assert all(url.startswith(f"https://github.com/{NAME}/{NAME}") for url in PROJECT["urls"].values())
