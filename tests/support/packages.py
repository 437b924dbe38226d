"""The npm packages of other people that tests use: clients and front ends for the browser."""

from __future__ import annotations

from pathlib import Path

from tests.support.services import missing

FOLDER = Path(__file__).resolve().parents[1] / "packages" / "node_modules"


def package(name: str) -> Path:
    """Return the folder of an installed npm package. Skip the test if npm was missing when the tests were set up."""
    folder = FOLDER / name
    if not folder.is_dir():
        missing(f"The npm package {name}", "nodejs npm` and `make install-dev")
    return folder
