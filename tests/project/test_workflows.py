"""The workflows for a public forge are valid and safe, and run what CI runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.sites import BIN, ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ["zizmor", "--offline", "--persona=pedantic", "--no-progress"],
    ],
    ids=lambda command: command[0],
)
def test_linter_finds_nothing(command: list[str]) -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "release"]
    done = subprocess.run([BIN / command[0], *command[1:], *WORKFLOWS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits(workflow: Path) -> None:
    uses = re.findall(r"uses: (.*)", workflow.read_text())
    assert uses
    assert [line for line in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_ci_runs_everything_and_the_matrix() -> None:
    assert re.findall(r"run: (\S.*)", WORKFLOWS[0].read_text()) == ["|", ".ci/run", "make matrix"]


def test_only_the_last_step_of_a_release_has_an_identity() -> None:
    """The job that runs our code and that of our requirements cannot publish."""
    build, _, publish = WORKFLOWS[1].read_text().partition("\n  publish:")
    assert "id-token" not in build
    assert "run:" not in publish
