"""Run the doctor as its users do, and look at its findings."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.support.sites import Site


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of one run of the command, and its exit code."""

    code: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> dict[str, str]:
        """Return the only finding of this check."""
        [found] = [finding for finding in self.findings if finding["check"] == check]
        return found

    def has(self, check: str) -> bool:
        return any(finding["check"] == check for finding in self.findings)

    def problems(self) -> list[str]:
        """Return the names of the checks that found a problem."""
        return [finding["check"] for finding in self.findings if finding["level"] == "problem"]


def examine(site: Site, *args: str) -> Report:
    """Run `manage.py streams_doctor` with these arguments."""
    done = site.manage("streams_doctor", "--json", *args, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Report(done.returncode, json.loads(done.stdout))
