"""Why somebody did not get a message: each answer, held against what the log, the policy and a real stream do."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group, Permission, UserManager
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.utils import timezone

from streams import apublish, log, presence, publish
from streams.diagnosis import Finding, Verdict, diagnose
from streams.models import Channel, ChannelSettings, LogHead, Message, Node
from streams.policies import BasePolicy, DefaultPolicy
from streams.testing import iterate_events
from streams.views import EventStreamView
from tests.admin.people import node

pytestmark = pytest.mark.django_db(transaction=True)

WHY = "/admin/streams/message/why/"


def ask(position: int, user: Any = None, last_event_id: str = "") -> list[Finding]:
    request = RequestFactory().get(WHY, headers={"cookie": "sessionid=staff", "authorization": "Bearer staff"})
    request.user = get_user_model()(username="who-asks", is_staff=True, is_superuser=True, is_active=True)
    return diagnose(position, request=request, user=user or AnonymousUser(), last_event_id=last_event_id)


def said(findings: list[Finding]) -> str:
    return "\n".join(f"{each.verdict.value}: {each.sentence} {each.remedy}" for each in findings)


def about(findings: list[Finding], words: str) -> Finding:
    """The one finding whose sentence has these words."""
    found = [each for each in findings if words in each.sentence]
    assert len(found) == 1, said(findings)
    return found[0]


def user(name: str = "ada", **attributes: Any) -> Any:
    return get_user_model().objects.create_user(name, **attributes)


# --- The message ------------------------------------------------------------------------------------------------------


def test_message_in_the_log() -> None:
    publish("news", "x")
    first = ask(1)[0]
    assert first.verdict is Verdict.GOOD
    assert re.search(r"Event 1 is in the log, on channel news. It was published at .* UTC\.$", first.sentence)


def test_id_that_was_never_given() -> None:
    publish("news", "x")
    [finding] = ask(2)
    assert finding.verdict is Verdict.BAD
    assert "There is no event 2: the newest is 1." in finding.sentence
    assert "rolled back" in finding.remedy


def test_id_of_lost_history() -> None:
    publish("news", "x")
    publish("news", "y")
    log.start_new_epoch("restored", fork=1)
    position = publish("news", "z").position
    assert position is not None
    finding = ask(position - 5)[0]
    assert (finding.verdict, "is of a history that is lost" in finding.sentence) == (Verdict.BAD, True)
    assert about(ask(position, last_event_id="2"), "“2” is of a history that is lost").verdict is Verdict.NOTE
    assert about(ask(position, last_event_id="1"), "A stream that goes on from 1").verdict is Verdict.GOOD
    assert about(ask(position, last_event_id=str(position - 1)), "goes on from").verdict is Verdict.GOOD


def test_empty_log() -> None:
    assert "There is no event 1: the newest is 0." in ask(1)[0].sentence


def test_message_that_waits_for_its_place() -> None:
    publish("news", "x")
    Message.objects.create(channel="news", data="waits", size=5)
    findings = ask(2)
    assert [each.verdict for each in findings] == [Verdict.BAD, Verdict.NOTE]
    assert "Messages wait for their place in the log right now" in findings[1].sentence
    assert Message.objects.filter(position=None).count() == 1, "asking changes nothing"
    log.sequence()
    assert ask(2)[0].verdict is Verdict.GOOD


def test_message_that_was_pruned() -> None:
    for n in range(3):
        publish("news", n)
    log.delete_through(2, limit=10)
    [finding] = ask(1)
    assert finding.verdict is Verdict.BAD
    assert "is no longer in the log: it was pruned, unless its row was deleted in some other way." in finding.sentence
    assert "stream-reset" in finding.remedy
    assert ask(3)[0].verdict is Verdict.GOOD


def test_message_that_was_pruned_so_long_ago_that_only_the_floor_knows() -> None:
    publish("news", "x")
    publish("other", "x")
    log.delete_through(2, limit=10)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.exists()
    assert LogHead.objects.get().floor == 2
    assert "it was pruned" in ask(1)[0].sentence


def test_message_that_somebody_deleted_by_hand() -> None:
    publish("news", "x")
    publish("news", "y")
    Message.objects.filter(position=1).delete()
    [finding] = ask(1)
    assert "it was not pruned: its row was deleted in some other way" in finding.sentence


def test_neighbours_in_the_channel() -> None:
    for channel in ("news", "other", "news", "other", "news"):
        publish(channel, "x")
    assert "The next event of the channel is 5." in said(ask(3))
    assert "It is the newest event of the channel; the one before it is 3." in said(ask(5))
    publish("alone", "x")
    assert "event of the channel is" not in said(ask(6))
    assert "the one before" not in said(ask(6))


# --- The user ---------------------------------------------------------------------------------------------------------


def admitted(channel: str, who: Any = None) -> Finding:
    position = publish(channel, "x").position
    assert position is not None
    return next(each for each in ask(position, who) if re.search(r" may (not )?read ", each.sentence))


def test_open_channel_is_for_everybody() -> None:
    finding = admitted("news")
    assert finding.verdict is Verdict.GOOD
    assert finding.sentence == "Somebody who is not signed in may read news, by the policy as it is now."


def test_refused_says_who_may() -> None:
    finding = admitted("secret", user())
    assert finding.verdict is Verdict.BAD
    assert finding.sentence == "ada may not read secret. Who may: staff who may view messages"
    assert "channel's settings" in finding.remedy


def test_policy_is_asked_about_the_user_and_not_about_who_asks() -> None:
    ada, bob = user("ada"), user("bob")
    assert admitted(f"user.{ada.pk}", ada).verdict is Verdict.GOOD
    assert admitted(f"user.{ada.pk}", bob).verdict is Verdict.BAD
    assert admitted(f"user.{ada.pk}").verdict is Verdict.BAD
    staff = user("staff", is_staff=True)
    assert admitted("secret", staff).verdict is Verdict.BAD
    staff.user_permissions.add(Permission.objects.get(codename="view_message"))
    assert admitted("secret", get_user_model().objects.get(pk=staff.pk)).verdict is Verdict.GOOD


def test_what_staff_have_settled_for_the_channel_counts() -> None:
    group = Group.objects.create(name="press")
    settings = ChannelSettings.objects.create(channel="news", access="groups")
    settings.groups.add(group)
    ada = user()
    assert admitted("news", ada).verdict is Verdict.BAD
    ada.groups.add(group)
    assert admitted("news", get_user_model().objects.get(pk=ada.pk)).verdict is Verdict.GOOD


def test_inactive_account() -> None:
    ada = user(is_active=False)
    publish(f"user.{ada.pk}", "x")
    findings = ask(1, ada)
    assert about(findings, "The account of ada is not active.").verdict is Verdict.BAD
    assert about(findings, "may not read").verdict is Verdict.BAD
    assert "not active" not in said(ask(1, user("bob")))


class WhoeverIsSignedIn(BasePolicy):
    """Does not look at whether the account is active: on a stream's request, no such user is there."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        return bool(request.user.is_authenticated)


def test_inactive_account_is_to_the_policy_what_it_is_to_a_stream(settings: Any, async_client: AsyncClient) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.WhoeverIsSignedIn"}
    ada = user("ada")
    async_client.force_login(ada)
    ada.is_active = False
    ada.save()
    assert admitted("news", ada).verdict is Verdict.BAD
    assert admitted("news", user("bob")).verdict is Verdict.GOOD

    async def status() -> int:
        return (await async_client.get("/events/news/")).status_code

    assert async_to_sync(status)() == 403


class OnlyAsync(BasePolicy):
    """Overrides nothing but the async method, and reads the user by the async way."""

    async def acan_subscribe(self, request: Any, channel: str) -> bool:
        return (await request.auser()).username == "ada"


class OnlyTheWhole(DefaultPolicy):
    """Decides over all channels at once."""

    async def arefused(self, request: Any, channels: Any) -> list[str]:
        return [] if request.user.username == "ada" else list(channels)


@pytest.mark.parametrize("policy", [OnlyAsync, OnlyTheWhole])
def test_policy_that_overrides_one_method(settings: Any, policy: type) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.{policy.__name__}"}
    assert admitted("secret", user("ada")).verdict is Verdict.GOOD
    refused = admitted("secret", user("bob"))
    assert refused.verdict is Verdict.BAD


class BySecrets(BasePolicy):
    """Looks wherever a request may hold something of who asks."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        assert request.method == "GET"
        held = [*request.COOKIES, *request.GET, *request.POST, *request.session.keys()]
        held += [name for name in request.headers if name in ("Cookie", "Authorization")]
        return held == [] and request.session.get("x") is None


def test_policy_sees_nothing_of_who_asks(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.BySecrets"}
    assert admitted("news", user()).verdict is Verdict.GOOD


class BySecretsOfTheServer(BasePolicy):
    """Looks into what the server handed over."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        handed = {**request.META, **getattr(request, "environ", {}), **getattr(request, "scope", {})}
        return "staff" not in repr(handed).replace(WHY, "")


@pytest.mark.parametrize("factory", [RequestFactory, AsyncRequestFactory], ids=["wsgi", "asgi"])
def test_policy_sees_nothing_of_who_asks_in_what_the_server_handed_over(settings: Any, factory: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.BySecretsOfTheServer"}
    publish("news", "x")
    headers = {"cookie": "sessionid=staff", "authorization": "Bearer staff", "proxy-authorization": "Basic staff"}
    request = factory().get(WHY, {"user": "staff"}, headers={**headers, "x-tenant": "acme"})
    request.user = user("who-asks")
    request.META["REMOTE_USER"] = "staff"
    findings = diagnose(1, request=request, user=user("ada"))
    assert about(findings, "ada may read news").verdict is Verdict.GOOD
    assert "staff" in repr(request.META), "its own request has it still"
    assert hasattr(request, "environ") or b"Bearer staff" in dict(request.scope["headers"]).values()


class ByTenant(BasePolicy):
    """Decides by a header, and by the scope's: what is of nobody in particular stays."""

    def can_subscribe(self, request: Any, channel: str) -> bool:
        in_scope = dict(request.scope["headers"]).get(b"x-tenant") if hasattr(request, "scope") else b"acme"
        return request.headers["X-Tenant"] == "acme" and in_scope == b"acme"


@pytest.mark.parametrize("factory", [RequestFactory, AsyncRequestFactory], ids=["wsgi", "asgi"])
def test_policy_sees_the_rest_of_the_request(settings: Any, factory: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.ByTenant"}
    publish("news", "x")
    findings = diagnose(1, request=factory().get(WHY, headers={"x-tenant": "acme"}), user=AnonymousUser())
    assert about(findings, "may read news").verdict is Verdict.GOOD


def test_request_that_asks_is_left_as_it_is(settings: Any) -> None:
    publish("news", "x")
    request = RequestFactory().get(WHY, {"a": "b"}, headers={"cookie": "c=d"})
    request.user = asking = user("who-asks")
    diagnose(1, request=request, user=user("ada"))
    assert request.user is asking
    assert request.GET["a"] == "b"
    assert request.COOKIES == {"c": "d"}


class Broken(BasePolicy):
    def can_subscribe(self, request: Any, channel: str) -> bool:
        raise KeyError("tenant")


def test_policy_that_raises(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Broken"}
    publish("news", "x")
    finding = about(ask(1, user()), "The policy could not say whether ada may read news")
    assert finding.verdict is Verdict.BAD
    assert "it raised KeyError: 'tenant'" in finding.sentence


class Speechless(BasePolicy):
    def readers(self, channel: str) -> str:
        raise KeyError("tenant")


def test_policy_that_cannot_name_the_readers(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "POLICY": f"{__name__}.Speechless"}
    publish("news", "x")
    assert about(ask(1, user()), "it raised KeyError: 'tenant'").verdict is Verdict.BAD


# --- What their client has, held against a real stream ----------------------------------------------------------------


async def stream(cursor: str, **query: str) -> tuple[str | None, list[int]]:
    """What a stream of `news` that begins with this cursor brings: the reason of a reset, and the events' ids."""
    response = await AsyncClient().get("/events/news/", {"last_event_id": cursor, **query})
    reason, ids, begun = None, [], False
    async with asyncio.timeout(30):
        async for event in iterate_events(response, control=True):
            if not begun:
                begun = True
                await apublish("news", "end")
            if event.event == "stream-reset":
                reason = json.loads(event.data)["reason"]
            elif event.data == "end":
                break
            elif not event.event.startswith("stream-"):
                ids.append(int(event.id))
    return reason, ids


@pytest.mark.parametrize("pruned", [0, 3, 6, 9], ids=lambda n: f"pruned-{n}")
@pytest.mark.parametrize("cursor", ["", "0", "2", "3", "4", "6", "006", "7", "8", "10", "11", "9" * 18, "9" * 19])
def test_cursor_does_what_is_said(cursor: str, pruned: int) -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    log.delete_through(pruned, channel="news", limit=10)
    _agrees(11 if pruned == 9 else 7, cursor)


@pytest.mark.parametrize("cursor", ["abc", "-1", "1.5", "٧", "7 8", "<b>"])
def test_malformed_cursor_does_what_is_said(cursor: str) -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    _agrees(7, cursor)


def _agrees(position: int, cursor: str) -> None:
    """Hold the finding about the cursor against what a stream then brings."""
    if position == 11:
        publish("news", "after everything was pruned")
    findings = ask(position, last_event_id=cursor)
    about_cursor = next(
        each
        for each in findings
        if re.search("^No last event id|everything up to|goes on from|begins with a", each.sentence)
    )
    reason, ids = async_to_sync(stream)(cursor)
    if cursor:
        assert (position in ids) == (about_cursor.verdict is not Verdict.BAD), (about_cursor, ids)
    else:
        assert (about_cursor.verdict, ids) == (Verdict.NOTE, [])
    told = re.search(r"stream-reset event \(([\w-]+)\)", about_cursor.sentence)
    assert (told and told[1]) == reason
    if position in ids:
        before = re.search(r"after (\d+) other messages? of the channel", about_cursor.sentence)
        assert before is not None
        assert int(before[1]) == ids.index(position)


def test_no_cursor_says_which_replay_would_bring_it() -> None:
    for n in range(1, 11):
        publish("news" if n % 2 else "other", n)
    finding = about(ask(5), "No last event id was given: the client has none, or it is not known.")
    assert finding.verdict is Verdict.NOTE, "who asks may just not know it"
    assert "“Network” shows it" in finding.remedy
    assert "unless the view sends a snapshot (get_snapshot)" in finding.remedy
    assert "begins at the head, which is 10 now" in finding.sentence
    assert "?replay=3 or more brings this one now" in finding.remedy
    assert "stream_url" in finding.remedy

    assert async_to_sync(stream)("", replay="3") == (None, [5, 7, 9])


def test_no_cursor_and_too_far_back_for_a_replay(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_REPLAY_MESSAGES": 3}
    for n in range(4):
        publish("news", n)
    assert "too far back for ?replay=" in about(ask(1), "No last event id").remedy
    assert "?replay=3 or more" in about(ask(2), "No last event id").remedy


@pytest.mark.parametrize("cursor", ["x", "9" * 18, "1"], ids=["malformed", "unknown", "pruned"])
def test_reset_says_what_a_view_with_a_snapshot_does_instead(cursor: str) -> None:
    for n in range(5):
        publish("news", n)
    log.delete_through(3, limit=10)
    finding = about(ask(4, last_event_id=cursor), "begins with a stream-reset event")
    assert "this event too, after 0 other messages of the channel, unless the view sends a snapshot" in finding.sentence

    async def begin() -> list[str]:
        response = await snapshots(AsyncRequestFactory().get("/", {"last_event_id": cursor}))
        seen = []
        async with asyncio.timeout(30):
            async for event in iterate_events(response, control=True):
                if event.event == "stream-snapshot":
                    await apublish("news", "end")
                seen.append(event.data if event.event == "message" else event.event)
                if event.data == "end":
                    break
        return [each for each in seen if each != "stream-open"]

    assert async_to_sync(begin)()[-3:] == ["stream-reset", "stream-snapshot", "end"]


class Snapshots(EventStreamView):
    def get_channels(self, request: Any, **kwargs: Any) -> list[str]:
        return ["news"]

    async def get_snapshot(self, request: Any, channels: Any) -> str:
        return "the state"


snapshots = Snapshots.as_view()


def test_very_long_cursor_is_not_repeated_in_full() -> None:
    publish("news", "x")
    assert len(said(ask(1, last_event_id="x" * 1000))) < 3000


# --- The page, and who listens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "verdict", "says"),
    [
        ("message", Verdict.GOOD, "an EventSource hands it to onmessage"),
        ("alert", Verdict.NOTE, "hands it to addEventListener(“alert”, …) alone. onmessage never sees it."),
        ("error", Verdict.BAD, "an event of EventSource's own"),
        ("open", Verdict.BAD, "an event of EventSource's own"),
        ("100%s", Verdict.NOTE, "“100%s”"),
    ],
)
def test_type_says_who_is_handed_it(event: str, verdict: Verdict, says: str) -> None:
    publish("news", "x", event=event)
    finding = about(ask(1), "Its type is")
    assert finding.verdict is verdict
    assert says in finding.sentence


def test_who_listens_now() -> None:
    publish("news", "x")
    assert about(ask(1), "Nobody has a stream now, of this channel or of any other.").verdict is Verdict.BAD
    node({"other": 2})
    assert about(ask(1), "Nobody has news now, though there are streams of other channels.").verdict is Verdict.BAD
    node({"news": 1})
    assert about(ask(1), "1 connection has news now.").verdict is Verdict.GOOD
    node({"news": 4})
    assert about(ask(1), "5 connections have news now.").verdict is Verdict.GOOD


def test_nobody_is_said_only_where_it_is_known() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    finding = about(ask(1), "It is not known whether anybody has news now")
    assert finding.verdict is Verdict.NOTE
    assert "the 500 with most connections" in finding.sentence
    assert "Nobody" not in said(ask(1))
    node({"news": 1})
    assert about(ask(1), "1 connection has news now.").verdict is Verdict.GOOD
    assert "not known whether" not in said(ask(1))


def test_what_this_process_leaves_out_of_its_row_it_counts_all_the_same() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    Node.objects.update(id=presence.node_id())
    assert about(ask(1), "Nobody has news now").verdict is Verdict.BAD


def test_what_a_process_that_ended_left_out_does_not_count() -> None:
    publish("news", "x")
    node({"other": 2}, channels_left_out=1)
    Node.objects.update(seen_at=timezone.now() - datetime.timedelta(minutes=5))
    assert "Nobody has a stream now" in said(ask(1))


def test_process_that_hears_nothing() -> None:
    publish("news", "x")
    node({"news": 1}, notifier_problem="Connection refused.")
    assert "Process h:1 does not hear of new messages: Connection refused." in said(ask(1))


# --- The page in the admin --------------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> Client:
    client = Client()
    editor = user("editor", is_staff=True)
    editor.user_permissions.add(Permission.objects.get(codename="view_message"))
    client.force_login(editor)
    return client


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.partition('id="content-main"')[2].partition("<footer")[0]))


def test_page_explains_and_asks(reader: Client) -> None:
    html = reader.get(WHY).content.decode()
    assert "Somebody says that a message never came." in text_of(html)
    assert "What was found" not in html
    assert "problem" not in html.partition('id="content-main"')[2]


def test_link_from_a_message_fills_in_its_id(reader: Client) -> None:
    html = reader.get(WHY, {"message": "7"}).content.decode()
    assert re.search(r'name="message" value="7"', html)
    assert "What was found" not in html


@pytest.mark.parametrize("who", ["ada", "pk"])
def test_answer_for_a_user_by_name_or_by_key(reader: Client, who: str) -> None:
    may_view_users()
    assert "or their primary key" in reader.get(WHY).content.decode()
    ada = user("ada")
    publish(f"user.{ada.pk}", "x")
    name = str(ada.pk) if who == "pk" else who
    said = text_of(reader.get(WHY, {"message": "1", "user": name, "last_event_id": " 0 "}).content.decode())
    assert "What was found about event 1" in said
    assert f"In order ada may read user.{ada.pk}" in said
    assert "A stream that goes on from 0 brings this event" in said
    assert "A reason Nobody has a stream now" in said


def may_view_users() -> None:
    editor = get_user_model().objects.get(username="editor")
    editor.user_permissions.add(Permission.objects.get(codename="view_user"))


def test_who_may_not_view_users_cannot_go_through_them(reader: Client) -> None:
    people = [user("ada@example.org"), user("bob@example.org", is_active=False)]
    publish("news", "x")
    assert "primary key" not in text_of(reader.get(WHY).content.decode())
    for pk in (*(each.pk for each in people), 10**6):
        html = reader.get(WHY, {"message": "1", "user": str(pk)}).content.decode()
        assert "There is no user with this name." in text_of(html), "the same whether there is one or not"
        assert "example.org" not in html
        assert "not active" not in html
    said = text_of(reader.get(WHY, {"message": "1", "user": "ada@example.org"}).content.decode())
    assert "ada@example.org may read news" in said


class Folding(UserManager[Any]):
    """As where the database, or the site's manager, takes names that differ in case for the same."""

    def filter(self, *args: Any, **kwargs: Any) -> Any:
        return super().filter(*args, **{"username__iexact" if k == "username" else k: v for k, v in kwargs.items()})


def test_answer_is_in_the_words_of_who_may_not_view_users(reader: Client, monkeypatch: Any) -> None:
    folding = Folding()
    folding.model = get_user_model()
    monkeypatch.setattr(get_user_model()._meta, "default_manager", folding)
    user("Ada.Lovelace", is_active=False)
    publish("news", "x")
    query = {"message": "1", "user": " ada.lovelace "}
    html = reader.get(WHY, query).content.decode()
    assert "ada.lovelace may read news" in text_of(html)
    assert "The account of ada.lovelace is not active." in text_of(html)
    assert "Ada.Lovelace" not in html
    may_view_users()
    assert "Ada.Lovelace may read news" in text_of(reader.get(WHY, query).content.decode())


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"message": ""}, "This field is required."),
        ({"message": "x"}, "An event id is a whole number, such as 1024."),
        ({"message": "0"}, "greater than or equal to 1"),
        ({"message": "-7"}, "greater than or equal to 1"),
        ({"message": "9" * 5000}, "whole number"),
        ({"message": "9" * 19}, "less than or equal to"),
        ({"message": "1", "user": "nobody"}, "There is no user with this name or primary key."),
        ({"message": "1", "user": "9" * 100}, "There is no user with this name or primary key."),
        ({"message": "1", "user": "a\0"}, "Null characters are not allowed."),
        ({"message": "1", "last_event_id": "\0"}, "Null characters are not allowed."),
        ({"message": "1", "last_event_id": "x" * 1001}, "at most 1000 characters"),
    ],
    ids=[
        "none",
        "word",
        "zero",
        "negative",
        "thousands",
        "too-large",
        "nobody",
        "large-key",
        "nul-user",
        "nul-id",
        "long",
    ],
)
def test_form_that_is_wrong_says_how_to_mend_it(reader: Client, query: dict[str, str], says: str) -> None:
    may_view_users()
    answer = reader.get(WHY, {"user": "", "last_event_id": "", **query})
    assert answer.status_code == 200
    assert says in text_of(answer.content.decode())
    assert "What was found" not in answer.content.decode()


def test_page_is_for_those_who_may_view_messages(client: Client) -> None:
    client.force_login(user("editor", is_staff=True))
    assert client.get(WHY).status_code == 403


def test_name_of_a_user_cannot_script_the_page(reader: Client) -> None:
    user("<script>x</script>‮")
    publish("secret", "x")
    html = reader.get(WHY, {"message": "1", "user": "<script>x</script>‮"}).content.decode()
    assert "<script>x" not in html
    assert "&lt;script&gt;x&lt;/script&gt;<span" in html
