"""No wide pattern and no setting in the admin opens the channels of users and of answers to others."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.core.checks import CheckMessage, Warning, run_checks
from django.core.exceptions import ValidationError
from django.test import AsyncClient, RequestFactory, override_settings

from streams import NewMessage, publish, publish_many
from streams.admin.diagnosis.diagnose import diagnose
from streams.channels.rules import is_public
from streams.models import ChannelSettings
from streams.policies import DefaultPolicy, get_policy
from streams.protocol.events import GENERATION_PREFIX, PRIVATE_PREFIXES, USER_PREFIX
from streams.relay.models import Generation
from tests.admin.people import node
from tests.api.callers import CHANNELS, get, key, user

pytestmark = pytest.mark.django_db(transaction=True)

ANSWER = f"{GENERATION_PREFIX}{'0a' * 16}"


def can_read(reader: Any, channel: str) -> bool:
    """Return True if the policy admits the user. The sync and the async methods must agree."""
    request = RequestFactory().get("/")
    request.user = reader
    answers = {not get_policy().denied_channels(request, [channel])}
    answers.add(not async_to_sync(get_policy().adenied_channels)(request, [channel]))
    (answer,) = answers
    return answer


def test_relay_uses_the_cores_prefix() -> None:
    assert PRIVATE_PREFIXES == (USER_PREFIX, GENERATION_PREFIX) == ("user.", "generation.")
    assert Generation(pk="7").channel == f"{GENERATION_PREFIX}7"


# --- PUBLIC_CHANNELS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "channel", "public"),
    [
        *((pattern, "user.7", False) for pattern in ("*", "u*", "user*", "*.7", "?ser.7", "user?7", "user[.]7", "*.*")),
        *((pattern, ANSWER, False) for pattern in ("*", "g*", "generation*", "*.*", "generation?*", "[g]eneration.*")),
        *((pattern, "user.7", True) for pattern in ("user.*", "user.7", "user.?", "user.[0-9]")),
        *((pattern, ANSWER, True) for pattern in ("generation.*", ANSWER)),
        *(("*", channel, True) for channel in ("news", "user", "users.7", "User.7", "a.user.7", "generations.x")),
        ("user.*", "generation.7", False),
        ("user.8", "user.7", False),
        ("*", "user.", False),
    ],
)
def test_private_channels_open_only_by_prefix(pattern: str, channel: str, public: bool) -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": [pattern]}):
        assert is_public(channel) is public
        assert can_read(AnonymousUser(), channel) is public


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
def test_star_opens_and_lists_no_private_channels() -> None:
    ann, bob = user("ann"), user("bob")
    by_ann = key(ann)
    publish_many([NewMessage(name, 1) for name in ("news", f"user.{ann.pk}", f"user.{bob.pk}", ANSWER)])
    node({"generation.live": 1})

    def listed(*keys: Any) -> list[str]:
        names = [each["channel"] for each in get(CHANNELS, *keys).json()["channels"]]
        return [name for name in names if name.startswith(PRIVATE_PREFIXES)]

    assert listed() == []
    assert listed(by_ann) == [f"user.{ann.pk}"]
    assert get(f"/api/channels/{ANSWER}/messages/", by_ann).status_code == 403
    assert get(f"/api/channels/user.{bob.pk}/messages/", by_ann).status_code == 403


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_star_opens_no_private_streams() -> None:
    client = AsyncClient()
    assert (await client.head("/events/news/")).status_code == 200
    assert (await client.head("/events/user.7/")).status_code == 403
    assert (await client.head(f"/events/{ANSWER}/")).status_code == 403
    assert (await client.head("/events/?channel=news&channel=user.7")).status_code == 403


# --- Settings in the admin --------------------------------------------------------------------------------------------


def people() -> dict[str, User]:
    everyone = {
        name: User.objects.create(username=name, is_staff=name in ("clerk", "viewer"))
        for name in ("owner", "member", "clerk", "viewer")
    }
    everyone["member"].groups.add(Group.objects.create(name="readers"))
    everyone["viewer"].user_permissions.add(Permission.objects.get(codename="view_message"))
    return everyone


@pytest.mark.parametrize("access", ["public", "logged-in", "staff", "groups"])
def test_rows_made_by_code_open_nothing(access: str) -> None:
    users = people()
    own = f"user.{users['owner'].pk}"
    for channel in (own, ANSWER):
        row = ChannelSettings.objects.create(channel=channel, access=access)
        if access == "groups":
            row.groups.add(Group.objects.get())
    for channel in (own, ANSWER):
        assert not can_read(AnonymousUser(), channel)
        assert not can_read(users["member"], channel)
        assert not can_read(users["clerk"], channel)
        assert can_read(users["viewer"], channel)
    assert can_read(users["owner"], own) is (access in ("public", "logged-in")), (
        "a row for a private channel can only restrict its readers"
    )


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["user.*"]})
def test_rows_narrow_what_a_named_pattern_opens() -> None:
    users = people()
    assert can_read(AnonymousUser(), "user.7")
    ChannelSettings.objects.create(channel="user.7", access="logged-in")
    assert not can_read(AnonymousUser(), "user.7")
    assert can_read(users["member"], "user.7")


@pytest.mark.parametrize("channel", ["user.7", "user.", ANSWER])
@pytest.mark.parametrize("access", ["public", "logged-in", "staff", "groups"])
def test_model_refuses_access_to_private_channels(channel: str, access: str) -> None:
    row = ChannelSettings(channel=channel, access=access)
    for check in (row.clean, row.full_clean):
        with pytest.raises(ValidationError, match=f"“{channel}” belongs to one user or to one answer"):
            check()
    ChannelSettings(channel=channel, title="A title", retention_seconds=5).full_clean()
    ChannelSettings(channel=f"x{channel}", access=access).full_clean()


# --- Descriptions of readers ------------------------------------------------------------------------------------------

OWNER = "this user, and staff with permission to view messages"
NARROWED = "this user, if the channel's settings admit them, and staff with permission to view messages"
STAFF = "staff with permission to view messages"


@pytest.mark.parametrize(
    ("public", "access", "user_words", "answer_words"),
    [
        (["*"], None, OWNER, STAFF),
        (["*"], "public", OWNER, STAFF),
        ([], "logged-in", OWNER, STAFF),
        ([], "staff", NARROWED, STAFF),
        ([], "groups", NARROWED, STAFF),
        (["user.*", "generation.*"], None, "everyone, by PUBLIC_CHANNELS", "everyone, by PUBLIC_CHANNELS"),
        (["user.*"], "staff", "staff, by the channel's settings", STAFF),
    ],
)
def test_readers_of_private_channels_are_true(
    public: list[str], access: str | None, user_words: str, answer_words: str
) -> None:
    if access is not None:
        for channel in ("user.7", ANSWER):
            ChannelSettings.objects.create(channel=channel, access=access)
    with override_settings(STREAMS={"PUBLIC_CHANNELS": public}):
        assert DefaultPolicy().describe_readers("user.7") == user_words
        assert DefaultPolicy().describe_readers(ANSWER) == answer_words


def test_diagnosis_gives_a_remedy_that_works() -> None:
    """The settings of a private channel cannot open it, so that the finding must not recommend them."""
    message = publish(ANSWER, 1)
    remedies = [
        finding.remedy
        for finding in diagnose(message.position or 0, request=RequestFactory().get("/"), user=user("ann"))
        if "cannot read" in finding.sentence
    ]
    assert remedies == [
        "The channel belongs to one user or to one answer, so its settings cannot open it to others. Publish to a "
        "channel that they can read, or change the policy."
    ]


# --- System check -----------------------------------------------------------------------------------------------------


def w006(*patterns: str, **streams: Any) -> list[CheckMessage]:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": list(patterns), **streams}):
        return [each for each in run_checks(databases=[]) if each.id == "streams.W006"]


def closed(pattern: str, closed: str) -> Warning:
    return Warning(
        f"STREAMS['PUBLIC_CHANNELS'] has the pattern {pattern!r}. It opens the channels that it matches to everyone, "
        f"except those of {closed}, because each of these belongs to one user, or to one answer of the relay.",
        hint="List the public channels, or their prefixes, such as 'news' and 'score.*'. To open the private channels "
        f"to everyone too, add {closed}. If the pattern is right, add streams.W006 to SILENCED_SYSTEM_CHECKS.",
        id="streams.W006",
    )


@pytest.mark.parametrize(
    ("pattern", "prefixes"),
    [
        ("*", "'user.*' or 'generation.*'"),
        ("*.*", "'user.*' or 'generation.*'"),
        ("[a-z]*", "'user.*' or 'generation.*'"),
        ("u*", "'user.*'"),
        ("user*", "'user.*'"),
        ("user[.]*", "'user.*'"),
        ("?eneration*", "'generation.*'"),
    ],
)
def test_w006_wide_pattern_says_what_stays_closed(pattern: str, prefixes: str) -> None:
    assert w006("news", pattern) == [closed(pattern, prefixes)]


@pytest.mark.parametrize("pattern", ["user.*", "user.[0-9]*", "generation.*", "generation.?*"])
def test_w006_pattern_that_names_a_prefix(pattern: str) -> None:
    (found,) = w006(pattern)
    assert found.msg == (
        f"STREAMS['PUBLIC_CHANNELS'] has the pattern {pattern!r}. Everyone can read all channels that it matches, "
        "without signing in, but each of them belongs to one user, or to one answer of the relay."
    )
    assert "SILENCED_SYSTEM_CHECKS" in str(found.hint)


def test_w006_names_each_pattern() -> None:
    assert [each.msg.split("'")[3] for each in w006("*", "user.*", "generation.*", "news")] == [
        "*",
        "user.*",
        "generation.*",
    ]


@pytest.mark.parametrize("pattern", ["news", "score.*", "user.7", "users.*", "*.live", "news*", "", "u?", "User.*"])
def test_w006_says_nothing_of_other_patterns(pattern: str) -> None:
    assert w006(pattern) == []


def test_w006_says_nothing_where_public_channels_count_for_nothing() -> None:
    assert w006("*", POLICY="streams.policies.BasePolicy") == []
    assert w006("*", POLICY="streams.policies.NoPolicy") == []
    assert w006("*", POLICY=None) == []
    assert w006(PUBLIC_CHANNELS=7) == []
