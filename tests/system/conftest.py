"""Fixtures of the tests that install the distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.distribution import Environment, build


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution of this checkout."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def installed(distribution: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean virtual environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    environment = Environment(folder)
    environment.run(f"pip install {distribution[0]}", folder)
    return environment
