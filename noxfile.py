"""The core's tests on each supported Django with each Python that this machine has: `nox`, or `make matrix`.

They are all tests that are not marked `once` or `system`, without those of the extras and of the project. Each pair
runs them on SQLite, and those that use the database again on PostgreSQL.

`nox --session newest` runs the newest pair alone, as CI does; CI's other tests run on the oldest. It also follows the
README with the built wheel. A Python or a database that is missing is skipped, and named.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent

# Django's own table of Python versions, without Python 3.10.
PAIRS = [
    ("3.11", "5.2"),
    ("3.12", "5.2"),
    ("3.13", "5.2"),
    ("3.14", "5.2"),
    ("3.12", "6.0"),
    ("3.13", "6.0"),
    ("3.14", "6.0"),
    ("3.12", "6.1"),
    ("3.13", "6.1"),
    ("3.14", "6.1"),
]

# Directories of tests that need more packages.
EXTRAS = ("admin", "api", "benchmarks", "relay", "project", "docs", "system")

# What the core's tests need of requirements-dev.txt.
TOOLS = ("django-unfold", "httpx", "httpx-sse", "hypothesis", "psutil", "pytest", "pytest-asyncio", "pytest-cov")
TOOLS += ("pytest-django", "pytest-xdist", "opentelemetry-sdk", "prometheus_client")

# What the tests that install the distribution need.
DISTRIBUTION_TOOLS = ("build", "hatch-fancy-pypi-readme", "hatchling", "playwright")
DISTRIBUTION_TESTS = ("tests/system/test_quickstart.py", "tests/system/test_streams_init.py")

PROCESSES = os.environ.get("TEST_PROCESSES", "2")

nox.options.sessions = ["core"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False


def _add_pyenv() -> None:
    """Let nox find the Pythons of pyenv, which puts only the chosen one on the path."""
    found = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin"))
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *map(str, found)])


def _newest() -> tuple[str, str]:
    """Return the newest pair whose Python is here."""
    return next((pair for pair in reversed(PAIRS) if shutil.which(f"python{pair[0]}")), PAIRS[-1])


def _tools(names: tuple[str, ...]) -> list[str]:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    return [line for line in lines if line.partition(">")[0].partition("[")[0] in names]


def _install(session: nox.Session, django: str, tools: tuple[str, ...]) -> None:
    session.install("--quiet", "-r", "requirements.txt", *_tools(tools), f"django=={django}.*")
    session.run(
        "python", "-c", "import sys, django; print(f'Python {sys.version.split()[0]}, Django {django.__version__}')"
    )


def _test(session: nox.Session) -> None:
    skipped = [f"--ignore=tests/{name}" for name in EXTRAS]
    arguments = ("pytest", "-q", "-n", PROCESSES, "-m", "not once and not system", *(session.posargs or skipped))
    session.run(*arguments)
    if shutil.which("postgres") or list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        session.run("python", "-m", "tests.support.services.postgres", "python", "-m", *arguments)
    elif os.environ.get("REQUIRE_SERVICES") == "1":
        session.error("PostgreSQL is not installed; `apt-get install postgresql` brings it")
    else:
        session.warn("SKIPPED on PostgreSQL, which is not installed; `apt-get install postgresql` brings it")


@nox.session
@nox.parametrize("python,django", PAIRS)
def core(session: nox.Session, django: str) -> None:
    """Run the core's tests on one pair."""
    _install(session, django, TOOLS)
    _test(session)


_add_pyenv()


@nox.session(python=_newest()[0])
def newest(session: nox.Session) -> None:
    """Run the core's tests on the newest pair, and those that follow the README with the built wheel."""
    if _newest() != PAIRS[-1]:
        session.warn(f"Python {PAIRS[-1][0]} is not installed. SKIPPED the newest pair, {PAIRS[-1]}.")
    _install(session, _newest()[1], (*TOOLS, *DISTRIBUTION_TOOLS))
    _test(session)
    if not session.posargs:
        session.run("pytest", "-q", "-n", PROCESSES, "-m", "system", *DISTRIBUTION_TESTS)
