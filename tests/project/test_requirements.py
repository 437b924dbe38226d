"""The lock files that `make` and the image install satisfy the requirements on every supported Python."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.sites import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
FILES = ("requirements", "requirements-dev")


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if re.match(r"\w", line)]
    for line in lines:
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r ").strip())
    return found


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return the lock file's requirements, each with its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line)
            found.append((Requirement(requirement), [value.strip() for value in hashes]))
    return found


def pins(name: str, python: str) -> dict[str, Version]:
    """Return the versions that pip would install on Linux with this Python."""
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, Version] = {}
    for requirement, _ in entries(name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            [pin] = requirement.specifier
            key = canonicalize_name(requirement.name)
            assert key not in found, f"{name} has two versions of {key} for Python {python}"
            found[key] = Version(pin.version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", FILES)
def test_lock_file_satisfies_the_requirements(file: str, python: str) -> None:
    locked = pins(f"{file}.lock", python)
    for requirement in requirements(f"{file}.txt"):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is missing in {file}.lock; run `make lock`"
        # OpenTelemetry's instrumentations have only pre-releases, which their requirements name.
        allowed = bool(requirement.specifier.prereleases)
        assert requirement.specifier.contains(locked[name], prereleases=allowed), f"{name}; run `make lock`"
    assert {"psycopg-binary", "httptools", "uvloop"} <= locked.keys()  # packages of extras as well


@pytest.mark.parametrize("python", PYTHONS)
def test_both_lock_files_have_the_same_versions(python: str) -> None:
    site, everything = (pins(f"{file}.lock", python) for file in FILES)
    assert site.items() <= everything.items()


@pytest.mark.parametrize("file", FILES)
def test_lock_file_has_hashes_and_names_no_index(file: str) -> None:
    text = (ROOT / f"{file}.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=)|^-(?!-)", text, re.MULTILINE)
    for requirement, hashes in entries(f"{file}.lock"):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), requirement


def test_site_has_the_server_that_its_deployment_starts() -> None:
    assert "uvicorn" in pins("requirements.lock", "3.13")


def test_what_often_breaks_has_an_upper_bound() -> None:
    """Every requirement of the app and of the demo site has an upper bound, at most the next major release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    for requirement in [*map(Requirement, texts), *requirements("requirements.txt")]:
        assert [pin for pin in requirement.specifier if pin.operator == "<"], f"{requirement} has no upper bound"
        locked = pins("requirements.lock", "3.13").get(canonicalize_name(requirement.name))
        assert locked is None or requirement.specifier.contains(locked), requirement
