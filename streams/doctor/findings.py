"""The result of one check of the doctor."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial


class Level(enum.IntEnum):
    """OK: nothing to do. WARNING: it works, but not as well as it could. PROBLEM: something does not work."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    check: the name of the check. docs/operations/doctor.md describes each of them.
    text: the observation, in whole sentences.
    remedy: what to change, with the line to write; "" if there is nothing to do.
    """

    level: Level
    check: str
    text: str
    remedy: str = ""


Findings = Iterator[Finding]

ok, warning, problem = partial(Finding, Level.OK), partial(Finding, Level.WARNING), partial(Finding, Level.PROBLEM)
