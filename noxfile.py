"""The core's tests on each supported Django with each Python that this machine has: `nox`, or `make matrix`.

They are all tests that are not marked `once` or `system`, without those of the extras and of the project.
`nox --session newest` runs the newest pair alone, as CI does; CI's other tests run on the oldest.
A Python that is missing is skipped, and named at the end.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

ROOT = Path(__file__).parent

PAIRS = [
    ("3.11", "5.2"),
    ("3.12", "5.2"),
    ("3.13", "5.2"),
    ("3.12", "6.0"),
    ("3.13", "6.0"),
    ("3.12", "6.1"),
    ("3.13", "6.1"),
]

# Directories of tests that need more packages.
EXTRAS = ("admin", "api", "relay", "project", "docs", "system")

# What the core's tests need of requirements-dev.txt.
TOOLS = ("django-unfold", "httpx", "httpx-sse", "hypothesis", "psutil", "pytest", "pytest-asyncio", "pytest-cov")
TOOLS += ("pytest-django", "pytest-xdist")

PROCESSES = os.environ.get("TEST_PROCESSES", "2")

nox.options.sessions = ["core"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False


def _add_pyenv() -> None:
    """Let nox find the Pythons of pyenv, which puts only the chosen one on the path."""
    found = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin"))
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *map(str, found)])


def _tools() -> list[str]:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    return [line for line in lines if line.partition(">")[0].partition("[")[0] in TOOLS]


def _test(session: nox.Session, django: str) -> None:
    session.install("--quiet", "-r", "requirements.txt", *_tools(), f"django=={django}.*")
    session.run(
        "python", "-c", "import sys, django; print(f'Python {sys.version.split()[0]}, Django {django.__version__}')"
    )
    skipped = [f"--ignore=tests/{name}" for name in EXTRAS]
    session.run("pytest", "-q", "-n", PROCESSES, "-m", "not once and not system", *(session.posargs or skipped))


@nox.session
@nox.parametrize("python,django", PAIRS)
def core(session: nox.Session, django: str) -> None:
    """Run the core's tests on one pair."""
    _test(session, django)


@nox.session(python=PAIRS[-1][0])
def newest(session: nox.Session) -> None:
    """Run the core's tests on the newest pair."""
    _test(session, PAIRS[-1][1])


_add_pyenv()
