"""The doctor looks at servers without a proxy: ASGI servers are fine, and a WSGI server is recognised."""

from __future__ import annotations

import pytest

from tests.support.services import free_port
from tests.support.sites import PYTHON, Server, Site
from tests.system.doctor.support import examine
from tests.system.servers.test_response_under_wsgi import SERVE_BY_WSGI

pytestmark = pytest.mark.once


@pytest.mark.parametrize("server", ["uvicorn", "daphne", "granian", "hypercorn"])
def test_asgi_server_has_no_problem(sqlite_site: Site, server: str) -> None:
    """The URL is that of the mount, so that the doctor chooses a public channel."""
    sqlite_site.settings(HEARTBEAT_SECONDS=0.5)
    report = examine(sqlite_site, f"{sqlite_site.serve(server).url}/events/", "--seconds", "2", "--publish", "news")
    assert report.problems() == []
    assert report.code == 0
    assert "Heartbeats arrive" in report.of("heartbeat")["text"]
    assert "got the 2 messages" in report.of("reconnect")["text"]


def wsgi_servers(site: Site) -> list[Server]:
    runserver = "import sys; from django.core.management.commands.runserver import Command; "
    runserver += "Command().run_from_argv(['manage.py', 'runserver', sys.argv[1], '--noreload'])"
    commands = {"wsgiref": SERVE_BY_WSGI, "runserver": f"import django; django.setup(); {runserver}"}
    found = []
    for name, code in commands.items():
        port = free_port()
        found.append(Server([PYTHON, "-c", code, str(port)], port, {**site.env, "DEBUG": "true"}, site.folder / name))
    return found


def test_wsgi_server_is_recognised(sqlite_site: Site) -> None:
    for server in wsgi_servers(sqlite_site):
        server.start()
        try:
            report = examine(sqlite_site, f"{server.url}/events/news/")
        finally:
            server.stop()
        assert report.problems() == ["answer"]
        assert "answers 500 (asgi-required). The server runs WSGI." in report.of("answer")["text"]
        assert "`uvicorn project.asgi:application" in report.of("answer")["remedy"]
        assert report.code == 1


def test_messages_arrive_through_the_notifier(postgres_site: Site) -> None:
    postgres_site.settings(NOTIFIER={"BACKEND": "streams.notifiers.postgres.PostgresNotifier"}, HEARTBEAT_SECONDS=0.5)
    postgres_site.settings(POLL_SECONDS=60)
    server = postgres_site.serve()
    report = examine(postgres_site, f"{server.url}/events/news/", "--seconds", "2", "--publish", "news")
    assert report.problems() == []
    assert report.of("messages")["level"] == "ok"
    assert "arrived over a second connection" in report.of("notifier")["text"]
    rows = postgres_site.execute("SELECT event, channel FROM streams_message")
    assert rows == [("streams-doctor", "news")] * 3


def test_messages_of_another_database_do_not_arrive(sqlite_site: Site, postgres_site: Site) -> None:
    """The command and the servers are configured for different databases."""
    server = sqlite_site.settings(HEARTBEAT_SECONDS=0.5).serve()
    report = examine(postgres_site, f"{server.url}/events/news/", "--seconds", "2", "--publish", "news")
    assert report.problems() == ["messages"]
    assert "use the same DATABASES" in report.of("messages")["remedy"]


def test_private_stream_needs_credentials(sqlite_site: Site) -> None:
    server = sqlite_site.settings(HEARTBEAT_SECONDS=0.5).serve()
    url = f"{server.url}/events/private/"
    report = examine(sqlite_site, url)
    assert report.problems() == ["answer"]
    assert "answers 403 (forbidden)" in report.of("answer")["text"]
    assert "--token" in report.of("answer")["remedy"]

    code = "from streams.tokens import make_token; print(make_token(read=['private']))"
    token = sqlite_site.script(code).communicate("")[0].strip()
    for args in (["--token", token], ["--header", f"Authorization: Bearer {token}"]):
        done = sqlite_site.manage("streams_doctor", url, "--seconds", "2", *args)
        assert token not in done.stdout + done.stderr
        assert "Heartbeats arrive" in done.stdout
    done = sqlite_site.manage("streams_doctor", f"{url}?token={token}x", check=False)
    assert token not in done.stdout + done.stderr
    assert "answers 403 (invalid-token)" in done.stdout
