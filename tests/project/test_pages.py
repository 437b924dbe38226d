"""The demo site, tested with an HTTP client. See tests/system/browser/ for its pages in a browser."""

import asyncio
import json
import os
import re
import subprocess
import time
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext

from project import settings as project_settings
from streams import NewMessage, publish, publish_many
from streams.models import Message
from streams.testing import read_events
from tests.support.sites import PYTHON, ROOT

JSON = {"accept": "application/json"}


class Page(HTMLParser):
    """The elements of an HTML page with their attributes, and its inline scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture
def staff(client: Client, db: None) -> Client:
    """Return a client that is logged in as a staff user whose only permission is to add messages."""
    user = get_user_model().objects.create_user("editor", is_staff=True)
    user.user_permissions.add(Permission.objects.get(content_type__app_label="streams", codename="add_message"))
    client.force_login(user)
    return client


# --- The board ---


def test_board_shows_the_newest_ten_and_a_stream_from_the_head(client: Client, db: None) -> None:
    publish_many([NewMessage("news", f"number {n}") for n in range(1, 12)])
    publish("other", "elsewhere")
    html = client.get("/").content.decode()
    assert re.findall(r'class="data">([^<]*)<', html)[:10] == [f"number {n}" for n in range(11, 1, -1)]
    assert "elsewhere" not in html
    assert 'data-stream="/events/news/?last_event_id=12"' in html


def test_board_takes_the_cursor_before_it_reads_the_messages(client: Client, db: None) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        client.get("/")
    reads = [query["sql"] for query in queries if "streams_" in query["sql"]]
    assert ["streams_loghead" in sql for sql in reads] == [True, False]


def test_board_escapes_what_was_published(client: Client, db: None) -> None:
    publish("news", "<script>alert(1)</script>", event="<b>")
    html = client.get("/").content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert" not in html
    assert "<b>" not in html


def test_board_tells_who_may_not_publish_what_to_do(client: Client, db: None) -> None:
    html = client.get("/").content.decode()
    assert "<form" not in html
    assert 'href="/admin/login/?next=/"' in html
    client.force_login(get_user_model().objects.create_user("half", is_staff=True))
    html = client.get("/").content.decode()
    assert "<form" not in html
    assert "You are logged in as half, who cannot publish here." in html


def test_board_is_not_cached(client: Client, db: None) -> None:
    # The page holds a cursor. An old cursor would cause a long replay or a reset.
    assert "no-store" in client.get("/").headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/", "/chat/", "/random/"])
def test_page_needs_nothing_inline_and_nothing_from_elsewhere(staff: Client, path: str) -> None:
    publish("news", "hello")
    response = staff.get(path)
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
    page = Page(response.content.decode())
    assert page.inline == []
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        for name in ("src", "href", "action"):
            assert re.match("[/#](?!/)", attributes.get(name) or "/"), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


# --- Publishing ---


def test_form_publishes_as_typed_and_leads_back(staff: Client) -> None:
    response = staff.post("/publish/", {"event": "alert", "data": "  one\r\ntwo \r\n"}, follow=True)
    assert response.redirect_chain == [("/", 302)]
    row = Message.objects.get()
    assert (row.channel, row.event, row.data, row.position) == ("news", "alert", "  one\ntwo \n", 1)
    assert row.published_by is not None
    assert row.published_by.get_username() == "editor"
    assert "Published as event 1." in response.content.decode()


def test_script_gets_the_position(staff: Client) -> None:
    response = staff.post("/publish/", {"event": "message", "data": "x"}, headers=JSON)
    assert (response.status_code, response.json()) == (201, {"position": 1})


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"event": "message", "data": ""}, "data", "Enter the data of the event."),
        ({"event": "message"}, "data", "Enter the data of the event."),
        ({"event": "message", "data": "x" * 300_000}, "data", "Data is at most 262144 bytes in UTF-8"),
        ({"event": "message", "data": "a\0b"}, "data", "Null characters are not allowed."),
        ({"event": "stream-reset", "data": "x"}, "event", "stream-reset is not one of the available choices"),
    ],
)
def test_what_cannot_be_published_is_told_beside_its_field(
    staff: Client, fields: dict[str, str], field: str, words: str
) -> None:
    response = staff.post("/publish/", fields, headers=JSON)
    assert response.status_code == 422
    [(named, [text])] = response.json()["errors"].items()
    assert named == field
    assert words in text

    response = staff.post("/publish/", fields)
    assert response.status_code == 422
    found = re.search(rf'id="id_{field}_error">([^<]*)<', response.content.decode())
    assert found is not None
    assert words in found.group(1)
    assert not Message.objects.exists()


@pytest.mark.parametrize("attributes", [None, {}, {"is_staff": True}])
def test_who_may_not_publish_is_refused(client: Client, db: None, attributes: dict[str, bool] | None) -> None:
    if attributes is not None:
        client.force_login(get_user_model().objects.create_user("somebody", **attributes))
    for headers in ({}, JSON):
        response = client.post("/publish/", {"event": "message", "data": "<i>long text"}, headers=headers)
        assert response.status_code == 403
        assert "Only staff who can add messages" in response.content.decode()
        # A script still has the text. Without a script, the error page must contain it.
        assert ("&lt;i&gt;long text</pre>" in response.content.decode()) == (headers == {})
    assert not Message.objects.exists()


def test_publishing_needs_the_csrf_token(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_superuser("root"))
    assert client.post("/publish/", {"event": "message", "data": "x"}).status_code == 403
    token = client.get("/").context["csrf_token"]
    fields = {"event": "message", "data": "x", "csrfmiddlewaretoken": str(token)}
    assert client.post("/publish/", fields).status_code == 302
    assert Message.objects.count() == 1


def test_publish_is_for_post(client: Client, db: None) -> None:
    assert client.get("/publish/").status_code == 405


# --- The other views ---


async def test_listeners_are_counted(async_client: AsyncClient, transactional_db: None) -> None:
    async def count() -> int:
        response = await async_client.get("/listeners/")
        assert "no-store" in response.headers["Cache-Control"]
        return int(json.loads(response.content)["listeners"])

    assert await count() == 0
    stream = await async_client.get("/events/news/")
    other = await async_client.get("/events/?channel=public.a&channel=public.b")
    assert await count() == 1
    await read_events(stream, 1, control=True)  # this also closes the stream
    await read_events(other, 1, control=True)
    async with asyncio.timeout(10):
        while await count():
            await asyncio.sleep(0.01)


async def test_random_is_a_stream_of_numbers(async_client: AsyncClient, db: None) -> None:
    response = await async_client.get("/random")
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    events = await read_events(response, 2)
    assert len(events) == 2
    for event in events:
        assert event.event == "message"
        assert 0 <= int(event.data) < 100


async def test_random_numbers_come_every_two_seconds(async_client: AsyncClient, db: None) -> None:
    response = await async_client.get("/random")
    started = time.monotonic()
    assert len(await read_events(response, 3)) == 3
    assert 3.9 <= time.monotonic() - started < 30


def test_random_has_a_page_beside_it(client: Client, db: None) -> None:
    response = client.get("/random/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert 'data-stream="/random"' in response.content.decode()


# --- Static files ---


async def test_static_file_is_served_by_asgi_without_a_warning(async_client: AsyncClient) -> None:
    path = "/static/project/site.css"
    response = await async_client.get(path)
    assert response.headers["Content-Type"] == 'text/css; charset="utf-8"'
    assert response.content == (ROOT / "project/static/project/site.css").read_bytes()
    again = await async_client.get(path, headers={"if-modified-since": response.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await async_client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == response.headers["Content-Length"]
    part = await async_client.get(path, headers={"range": "bytes=0-4"})
    assert (part.status_code, part.content) == (206, response.content[:5])


def test_static_file_is_served_by_wsgi(client: Client) -> None:
    assert client.get("/static/project/board.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/static/project/none.js").status_code == 404
    assert client.get("/favicon.ico").headers["Location"] == "/static/project/icon.svg"


# --- The demo user ---


def test_demo_user_is_made_once_and_its_password_printed_once(db: None) -> None:
    first, second = StringIO(), StringIO()
    call_command("create_demo_user", stdout=first)
    found = re.search(r"Name: (\S+)  Password: (\S+)", first.getvalue())
    assert found is not None
    name, password = found.groups()
    user = authenticate(username=name, password=password)
    assert user is not None
    assert user.is_staff
    assert user.has_perm("streams.add_message")

    call_command("create_demo_user", stdout=second)
    assert f"The user {name} already exists" in second.getvalue()
    assert f"manage.py changepassword {name}" in second.getvalue()
    assert "Password:" not in second.getvalue()
    assert authenticate(username=name, password=password) == user


# --- The settings, loaded in a new process by each test ---


def _setting(expression: str, folder: Path, env_file: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "env").write_text(env_file)
    return subprocess.run(
        [PYTHON, "-c", f"from project import settings\nprint({expression})"],
        env={"PATH": os.environ["PATH"], "ENV_FILE": str(folder / "env"), **env},
        cwd=ROOT,
        text=True,
        capture_output=True,
    )


@pytest.mark.once
def test_site_without_debug_needs_a_secret_key(tmp_path: Path) -> None:
    refused = _setting("settings.DEBUG", tmp_path)
    assert refused.returncode != 0
    assert "Set the SECRET_KEY environment variable" in refused.stderr
    assert _setting("settings.DEBUG", tmp_path, SECRET_KEY="x").stdout == "False\n"
    assert _setting("settings.DEBUG", tmp_path, DEBUG="true").stdout == "True\n"


@pytest.mark.once
def test_env_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    file = "DEBUG=true\nSECRET_KEY=a-b_c\nALLOWED_HOSTS=a.example,b.example\n"
    expression = "settings.SECRET_KEY, settings.ALLOWED_HOSTS, settings.DEBUG"
    assert _setting(expression, tmp_path, file).stdout == "a-b_c ['a.example', 'b.example'] True\n"
    assert _setting(expression, tmp_path, file, DEBUG="no", SECRET_KEY="k").stdout.startswith("k ")
    assert _setting(expression, tmp_path, file, DEBUG="no").stdout.endswith("False\n")


@pytest.mark.once
def test_database_is_chosen_by_its_url(tmp_path: Path) -> None:
    expression = "settings.DATABASES['default']['ENGINE'], settings.DATABASES['default']['NAME']"
    url = "postgresql://somebody@127.0.0.1/things"
    assert _setting(expression, tmp_path, DEBUG="1").stdout.endswith(f"sqlite3 {ROOT / '.local' / 'db.sqlite3'}\n")
    assert _setting(expression, tmp_path, DEBUG="1", DATABASE_URL=url).stdout.endswith("postgresql things\n")


def test_every_variable_that_is_read_is_in_the_table() -> None:
    source = Path(project_settings.__file__).read_text()
    table = re.findall(r"^\| ([A-Z_, ]+) \|", source, re.MULTILINE)
    named = {name for row in table for name in row.split(", ")}
    read = set(re.findall(r'(?:\benv(?:\.\w+)?|environ\.get)\(\s*"([A-Z_]+)"', source))
    assert named == read
