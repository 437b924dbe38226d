"""The notice that the doctor sends, with notifiers that deliver it, lose it, or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from streams.doctor import notifier
from streams.notifiers import BaseNotifier, Notice
from streams.notifiers.mailboxes import Mailboxes

pytestmark = pytest.mark.once

HERE = "tests.doctor.test_notifier"


class Bus(BaseNotifier):
    """Its instances share a bus, as those of several processes do."""

    shared = Mailboxes()
    sent: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        self.sent.append(notice)
        self.shared.put(notice)

    def listen(self) -> AsyncGenerator[Notice | None, None]:
        return self.shared.listen()


class OneProcess(BaseNotifier):
    def __init__(self) -> None:
        self._mailboxes = Mailboxes()

    def notify(self, notice: Notice) -> None:
        self._mailboxes.put(notice)

    def listen(self) -> AsyncGenerator[Notice | None, None]:
        return self._mailboxes.listen()


class Deaf(OneProcess):
    def notify(self, notice: Notice) -> None:
        pass


class Broken(OneProcess):
    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        raise ConnectionError("The notifier's connection is lost.") from OSError("no route to host")
        yield None


class Stuck(OneProcess):
    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        await asyncio.sleep(60)
        yield None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(notifier, "LISTEN_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("name", "level", "text", "remedy"),
    [
        ("Bus", "OK", "arrived over a second connection after", ""),
        ("OneProcess", "WARNING", "reaches only the process that publishes", "Use PostgresNotifier"),
        ("Deaf", "PROBLEM", "did not arrive within 0.2 s", "Check the OPTIONS"),
        ("Broken", "PROBLEM", "(OSError: no route to host)", "Check the OPTIONS"),
        ("Stuck", "PROBLEM", "(TimeoutError: no answer in time)", "Check the OPTIONS"),
    ],
)
def test_notifier_is_judged(settings: Any, name: str, level: str, text: str, remedy: str) -> None:
    settings.STREAMS = {"NOTIFIER": {"BACKEND": f"{HERE}.{name}"}}
    [found] = notifier.check()
    assert (found.level.name, found.check) == (level, "notifier")
    assert text in found.text
    assert found.remedy.startswith(remedy)


def test_local_notifier_is_explained() -> None:
    [found] = notifier.check()
    assert found.level.name == "OK"
    assert "LocalNotifier reaches the process that publishes" in found.text


def test_notice_concerns_no_stream(settings: Any) -> None:
    """It revokes the access of a user and of a token that do not exist, and ends nothing."""
    settings.STREAMS = {"NOTIFIER": {"BACKEND": f"{HERE}.Bus"}}
    Bus.sent.clear()
    list(notifier.check())
    [notice] = Bus.sent
    assert (notice.first, notice.last, notice.messages) == (0, 0, ())
    assert notice.revocation is not None
    assert notice.revocation.ends is False
    assert notice.revocation.user == notice.revocation.token
    assert str(notice.revocation.user).startswith("streams-doctor-")
