"""A client can read a channel only if the policy admits it, and only under the channel's exact name."""

from __future__ import annotations

import pytest

from tests.support.services import wait_until
from tests.system.attacks.conftest import Attacked
from tests.system.attacks.raw import Answer

pytestmark = pytest.mark.once

SECRET = "for the owner alone"


def is_refused(answer: Answer) -> bool:
    """Return True if the answer is an error. Assert that it contains nothing from the channel."""
    assert SECRET not in answer.text
    assert answer.header("content-type") != "text/event-stream; charset=utf-8"
    return answer.status in (400, 403, 404)


def spellings(pk: int) -> list[str]:
    """Return strings that a careless comparison could confuse with `user.<pk>`."""
    name = f"user.{pk}"
    return [
        # Patterns, which only settings and tokens can contain.
        *("*", "user.*", "user.?", f"user.[{pk}]", "[u]ser.1", "user.[0-9]", f"{name}*", "!news", "news*"),
        # Upper case, and digits and letters that look like the right ones or are folded to them.
        *(f"User.{pk}", f"USER.{pk}", name.upper()),
        *(f"user.{fullwidth(pk)}", f"user．{pk}", f"uѕer.{pk}", f"ｕser.{pk}", f"uſer.{pk}", "user.²", f"user․{pk}"),
        # Other ways to write a number.
        *(f"user.0{pk}", f"user.+{pk}", f"user.-{pk}", f"user.{pk}.0", f"user.{pk}e0", f"user.0x{pk:x}", f"user. {pk}"),
        # White space, and characters that end a string in other contexts.
        *(f"{name} ", f" {name}", f"{name}\t", f"{name}\n", f"{name}\r", f"{name}\0", f"{name}\u200b", f"\ufeff{name}"),
        # Paths, and separators of lists.
        *(
            f"./{name}",
            f"../{name}",
            f"news/../{name}",
            f"/{name}",
            f"{name}/",
            f"{name}/.",
            f"..\\{name}",
            f"{name}\\",
        ),
        *(
            f"news,{name}",
            f"news;{name}",
            f"news {name}",
            f"news|{name}",
            f"news&channel={name}",
            f"{name}?",
            f"{name}#",
        ),
        *(f"user.{pk}'--", f"user.{pk}%", f"user._{pk}", "user._", "user.%", "%", "_"),
        *("user.", "user..", "..", ".", "", "user", "user.None", "user.null", "user.true", "user.AnonymousUser"),
    ]


def fullwidth(number: int) -> str:
    return "".join(chr(ord("０") + int(digit)) for digit in str(number))


def in_query(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def test_no_other_spelling_of_a_name_reads_a_channel(attacked: Attacked) -> None:
    owner, stranger = attacked.user("owner"), attacked.user("stranger")
    attacked.site.manage("publish", owner.channel, SECRET)
    own = attacked.stream(f"/events/{owner.channel}/?replay=10", {"Cookie": owner.cookie}, until=SECRET.encode())
    assert SECRET in own.text
    for cookie in ({}, {"Cookie": stranger.cookie}):
        for name in [owner.channel, *spellings(owner.pk)]:
            if name.strip("/").strip("./"):  # otherwise this is the URL for several channels, without a channel
                answer = attacked.stream(f"/events/{in_query(name)}/?replay=10", cookie)
                assert is_refused(answer), name
            answer = attacked.stream(f"/events/?replay=10&channel={in_query(name)}", cookie)
            assert is_refused(answer), name


def test_no_path_leads_to_a_channel_but_its_own(attacked: Attacked) -> None:
    owner, stranger = attacked.user("owner"), attacked.user("stranger")
    attacked.site.manage("publish", owner.channel, SECRET)
    name = owner.channel
    paths = [
        *(f"/events/news%2F{name}/", f"/events/news%252F{name}/", f"/events/news%5C{name}/", f"/events/news%00{name}/"),
        *(f"/events/news/../{name}/", f"/events/news%2F..%2F{name}/", f"/events/./{name}/", f"/events/%2e/{name}/"),
        *(f"/events/%2e%2e/events/{name}/", f"//events/{name}/", f"/events//{name}/", f"/events/{name}%2F"),
        *(
            f"/events/{name}/;news/",
            f"/events/{name};a=b/",
            f"/events/{name}%23/",
            f"/events/{name}%3F/",
            f"/EVENTS/{name}/",
        ),
        *(f"/events/{name}/news/", f"/events/news/{name}/", f"/events/%75ser.{owner.pk}/", f"/events/{name}"),
        *(f"/events/%2575ser.{owner.pk}/", f"/events/%c0%ae/{name}/", f"http://127.0.0.1/events/{name}/"),
    ]
    for path in paths:
        answer = attacked.stream(f"{path}?replay=10", {"Cookie": stranger.cookie})
        if answer.status == 301:  # Django adds the slash; the new location is refused as well
            answer = attacked.stream(str(answer.header("location")), {"Cookie": stranger.cookie})
        assert is_refused(answer), path
    # Only the channel in the URL is authorized and read, whatever the query or a header contains.
    for query in (f"channel={name}", f"channel=news&channel={name}", f"url={name}", f"kwargs=channel&channel={name}"):
        answer = attacked.stream(f"/events/news/?replay=10&{query}", {"Cookie": stranger.cookie})
        assert answer.status == 200
        assert SECRET not in answer.text
    for header in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Script-Name"):
        answer = attacked.stream("/events/news/?replay=10", {header: f"/events/{name}/", "Cookie": stranger.cookie})
        assert SECRET not in answer.text
    for header in ("X-Forwarded-User", "Remote-User", "X-Remote-User", "X-User-Id"):
        assert is_refused(attacked.stream(f"/events/{name}/", {header: "owner"}))


def test_one_channel_that_is_refused_refuses_the_stream(attacked: Attacked) -> None:
    owner, stranger = attacked.user("owner"), attacked.user("stranger")
    theirs, own = owner.channel, stranger.channel
    for channels in (
        ["news", theirs],
        [theirs, "news"],
        ["news", own, theirs],
        [theirs, theirs],
        ["news", "news", theirs, theirs],
        [*(f"public.{n}" for n in range(48)), own, theirs],
    ):
        answer = attacked.stream(
            f"/events/?{'&'.join(f'channel={name}' for name in channels)}", {"Cookie": stranger.cookie}
        )
        assert answer.status == 403
        assert answer.code == "forbidden"
    many = "&".join(f"channel=public.{n}" for n in range(51))
    assert attacked.stream(f"/events/?{many}").status == 400
    # A channel that is named twice counts once.
    answer = attacked.stream(f"/events/?channel={own}&channel=news&channel={own}", {"Cookie": stranger.cookie})
    assert answer.status == 200


def test_what_is_told_of_a_channel_that_is_refused_is_the_same_whether_there_is_one(attacked: Attacked) -> None:
    owner, stranger = attacked.user("owner"), attacked.user("stranger")
    attacked.site.manage("publish", owner.channel, SECRET)
    answers = {
        attacked.stream(f"/events/{name}/", {"Cookie": stranger.cookie}).text.replace(name, "…")
        for name in (owner.channel, "user.987654321", "nothing.was.ever.published.here")
    }
    assert len(answers) == 1
    assert "streams" not in str(attacked.get(f"/events/{owner.channel}/").headers)


def test_user_who_is_deactivated_or_logged_out_has_no_new_stream(attacked: Attacked) -> None:
    leaver = attacked.user("leaver")
    path = f"/events/{leaver.channel}/"
    assert attacked.stream(path, {"Cookie": leaver.cookie}).status == 200
    attacked.site.execute("UPDATE auth_user SET is_active = false WHERE username = 'leaver'")
    wait_until(lambda: attacked.stream(path, {"Cookie": leaver.cookie}).status == 403, "the refusal", 10)
