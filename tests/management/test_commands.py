"""manage.py publish, subscribe and prune_messages, as used in a shell."""

from __future__ import annotations

import datetime
import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from streams import NewMessage, publish, publish_many
from streams.models import Message
from tests.support.forks import MAIN, ForkedProcess
from tests.support.services import wait_until
from tests.support.sites import PYTHON, ROOT, Site, finish

database = pytest.mark.django_db(transaction=True)


def stored() -> list[tuple[Any, ...]]:
    return list(Message.objects.order_by("position").values_list("position", "channel", "event", "data"))


# --- publish ----------------------------------------------------------------------------------------------------------


def run(*args: str) -> str:
    out = io.StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


@database
def test_publish_prints_the_position() -> None:
    assert run("publish", "news", "hello") == "1\n"
    assert run("publish", "news", '{"a": 1}', "--event", "alert", "--json") == "2\n"
    assert stored() == [(1, "news", "message", "hello"), (2, "news", "alert", '{"a": 1}')]


@database
def test_publish_with_a_key_publishes_once() -> None:
    assert run("publish", "news", "one", "--idempotency-key", "deploy-7") == "1\n"
    assert run("publish", "news", "two", "--idempotency-key", "deploy-7") == "1\n"
    assert stored() == [(1, "news", "message", "one")]


@database
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["news room", "x"], "Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got 'news room'."),
        (["news", "x", "--event", "stream-reset"], "'stream-'"),
        (["news", "x", "--event", ""], "1 to 99 characters"),
        (["news", "x", "--idempotency-key", ""], "An idempotency key is a text of 1 to 255 characters"),
        (["news", "{not json", "--json"], "This is not JSON: Expecting property name"),
        (["news", '{"a":\n "NaN", "b": NaN}', "--json"], "NaN is not a JSON value, in line 2, column 14."),
        (["news", "[" * 100_000, "--json"], "This is not JSON: it is nested too deeply"),
        (["news", "x" * 262_145], "MAX_MESSAGE_BYTES"),
    ],
)
def test_publish_refuses_with_a_clear_error(args: list[str], expected: str) -> None:
    with pytest.raises(CommandError) as caught:
        run("publish", *args)
    assert expected in str(caught.value)
    assert stored() == []


@pytest.mark.once
def test_publish_in_a_shell(site: Site) -> None:
    assert site.manage("publish", "news", "-", input="from stdin\nsecond line").stdout == "1\n"
    assert site.manage("publish", "news", "ünï 🎉").stdout == "2\n"
    assert site.manage("publish", "--event", "alert", "news", "--", "--not-an-option").stdout == "3\n"
    assert site.manage("publish", "news", "-", "--json", input='{"a":\n1}').stdout == "4\n"
    assert site.manage("publish", "news", "").stdout == "5\n"
    assert site.execute("SELECT event, data FROM streams_message ORDER BY position") == [
        ("message", "from stdin\nsecond line"),
        ("message", "ünï 🎉"),
        ("alert", "--not-an-option"),
        ("message", '{"a":\n1}'),
        ("message", ""),
    ]
    failed = site.manage("publish", "news room", "x", check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == (
        "CommandError: Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got 'news room'.\n"
    )


@pytest.mark.once
@pytest.mark.parametrize("source", ["argument", "input"])
def test_publish_refuses_bytes_that_are_no_text(sqlite_site: Site, source: str) -> None:
    data = b"caf\xe9"  # Latin-1
    argument = data if source == "argument" else b"-"
    command = [os.fsencode(PYTHON), b"manage.py", b"publish", b"news", argument]
    env = {**sqlite_site.env, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    process = subprocess.run(command, input=data, env=env, cwd=ROOT, capture_output=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith(b"CommandError: "), process.stderr
    assert b"Traceback" not in process.stderr
    assert sqlite_site.execute("SELECT count(*) FROM streams_message") == [(0,)]


# --- subscribe --------------------------------------------------------------------------------------------------------


class Terminal:
    """A running `manage.py subscribe` and its output so far."""

    def __init__(self, site: Site, *args: str) -> None:
        self._out = site.folder / "stdout"
        self._errors = site.folder / "stderr"
        # A shell does not set PYTHONUNBUFFERED, so the command must flush its output itself.
        env = {name: value for name, value in site.env.items() if name != "PYTHONUNBUFFERED"}
        argv = ["manage.py", "subscribe", *args]
        self.process = ForkedProcess(MAIN, argv, env, self._out, self._errors)

    @property
    def text(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def wait_for(self, count: int) -> list[str]:
        wait_until(lambda: len(self.lines) >= count or self.ended(), f"line {count}", seconds=60)
        return self.lines

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, signum: signal.Signals) -> int:
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)


@pytest.fixture
def subscribe(site: Site) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(site, *args))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.process.close()


def publish_texts(*texts: str) -> None:
    for text in texts:
        publish("news", text)


@pytest.mark.once
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_subscribe_resumes_follows_and_ends_well(
    site: Site, subscribe: Callable[..., Terminal], signum: signal.Signals
) -> None:
    finish(site.call(publish_texts, "one", "two", "three"))
    terminal = subscribe("news", "--last-event-id", "1")
    assert terminal.wait_for(2) == ["2\tmessage\ttwo", "3\tmessage\tthree"]
    site.manage("publish", "other", "not for us")
    site.manage("publish", "news", "four", "--event", "alert")
    finish(site.call(publish_texts, "five", "six"))
    assert terminal.wait_for(5)[2:] == ["5\talert\tfour", "6\tmessage\tfive", "7\tmessage\tsix"]
    assert terminal.end(signum) == 0
    assert terminal.errors == ""
    assert len(terminal.lines) == 5


@pytest.mark.once
def test_subscribe_to_several_channels_prints_in_log_order(site: Site, subscribe: Callable[..., Terminal]) -> None:
    for channel, text in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")]:
        site.manage("publish", channel, text)
    terminal = subscribe("b", "a", "--last-event-id", "0")
    assert terminal.wait_for(3) == ["1\tmessage\t1", "2\tmessage\t2", "4\tmessage\t4"]


@pytest.mark.once
def test_subscribe_begins_with_what_is_new(site: Site, subscribe: Callable[..., Terminal]) -> None:
    finish(site.call(publish_texts, "old"))
    terminal = subscribe("news", "--raw")
    wait_until(lambda: "\n\n" in terminal.text, "the first block", seconds=60)
    assert "stream-checkpoint\nid: 1\n" in terminal.text
    finish(site.call(publish_texts, "new"))
    wait_until(lambda: "new" in terminal.text, "the event", seconds=60)
    assert terminal.text.endswith("id: 2\ndata: new\n\n")
    assert "old" not in terminal.text


@pytest.mark.once
def test_subscribe_replays_the_newest(site: Site, subscribe: Callable[..., Terminal]) -> None:
    finish(site.call(publish_texts, *map(str, range(1, 11))))
    terminal = subscribe("news", "--replay", "3")
    assert terminal.wait_for(3) == ["8\tmessage\t8", "9\tmessage\t9", "10\tmessage\t10"]
    finish(site.call(publish_texts, "next"))
    assert terminal.wait_for(4)[3:] == ["11\tmessage\tnext"]


@pytest.mark.once
def test_subscribe_says_where_something_may_have_been_missed(site: Site, subscribe: Callable[..., Terminal]) -> None:
    finish(site.call(publish_texts, "one", "two"))
    terminal = subscribe("news", "--last-event-id", "99")
    assert terminal.wait_for(2) == ["1\tmessage\tone", "2\tmessage\ttwo"]
    _, found, text = terminal.errors.partition("Events might have been missed: ")  # after a log record
    assert found
    reset = json.loads(text)
    assert (reset["reason"], reset["requested"], reset["head"]) == ("unknown-id", "99", 2)


@pytest.mark.once
def test_subscribe_ends_when_nobody_reads_it_any_more(site: Site) -> None:
    # `subscribe news | head -1` closes the pipe in this way.
    finish(site.call(publish_texts, "one"))
    process = ForkedProcess(MAIN, ["manage.py", "subscribe", "news", "--last-event-id", "0"], site.env)
    try:
        process.expect_line("1\tmessage\tone")
        process.stdout.close()
        finish(site.call(publish_texts, "two", "three"))
        process.wait(timeout=30)
        assert process.stderr.read() == ""
    finally:
        process.close()


@pytest.mark.once
def test_subscribe_goes_on_over_a_restart_of_the_database(postgres_site: Site) -> None:
    finish(postgres_site.call(publish_texts, "one"))
    terminal = Terminal(postgres_site, "news", "--last-event-id", "0")
    try:
        assert terminal.wait_for(1) == ["1\tmessage\tone"]
        assert postgres_site.postgres is not None
        postgres_site.postgres.stop(signal.SIGQUIT)
        postgres_site.postgres.start()
        finish(postgres_site.call(publish_texts, "two", "three"))
        lines = [line.split("\t") for line in terminal.wait_for(3)]
        assert [data for _, _, data in lines] == ["one", "two", "three"]
        # The server runs without fsync, so its restart starts a new epoch of the log.
        first, second, third = (int(position) for position, _, _ in lines)
        assert (first, third) == (1, second + 1)
        assert terminal.end(signal.SIGTERM) == 0
    finally:
        terminal.process.close()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["news room"], "Channel names use"),
        (["news", "--replay", "-1"], "--replay must be 0 or more; got -1."),
    ],
)
def test_subscribe_refuses_with_a_clear_error(args: list[str], expected: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("subscribe", *args)
    assert expected in str(caught.value)


# --- prune_messages ---------------------------------------------------------------------------------------------------


@database
def test_prune_messages_deletes_what_retention_lets_go(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RETENTION_MESSAGES_PER_CHANNEL": 2}
    publish_many([NewMessage("news", n) for n in range(5)])
    assert run("prune_messages") == "Pruned 3 messages.\n"
    assert [row[0] for row in stored()] == [4, 5]
    assert run("prune_messages") == "Pruned 0 messages.\n"


@database
def test_prune_messages_dry_run_says_what_would_go(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RETENTION_MESSAGES_PER_CHANNEL": 2}
    assert run("prune_messages", "--dry-run") == "Nothing to delete.\n"
    publish_many([NewMessage("news", n) for n in range(5)])
    Message.objects.filter(position=1).update(created_at=timezone.now() - datetime.timedelta(days=30))
    assert run("prune_messages", "--dry-run") == (
        "By age, all channels: 1 messages up to position 1 would be deleted.\n"
        "By count, channel news: 3 messages up to position 3 would be deleted.\n"
    )
    assert len(stored()) == 5
