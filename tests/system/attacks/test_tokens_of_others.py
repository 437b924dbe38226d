"""A token lets its bearer read only the channels that it names, and only if this site issued it."""

from __future__ import annotations

import base64
import json
import time

import pytest

from tests.support.sites import finish
from tests.system.attacks.conftest import Attacked, make_token
from tests.system.attacks.raw import Answer

pytestmark = pytest.mark.once

CHANNEL = "job.17"

# Print values that are signed with this site's key for other purposes.
SIGN = """
import json, sys, time
from django.core import signing
from django.contrib.auth import get_user_model
from streams.relay.access import make_key
user, _ = get_user_model().objects.get_or_create(username="signer")
claims = {"i": "x", "r": ["job.17"], "p": [], "e": time.time() + 600}
salts = ["streams.relay.key", "streams.relay.generation", "django.contrib.sessions.SessionStore", "django.core.signing"]
signed = [signing.dumps(claims, salt=salt) for salt in salts]
signers = [signing.Signer(), signing.TimestampSigner()]
print(json.dumps([*signed, make_key(user, 600), *(signer.sign("job.17") for signer in signers)]))
"""


def reads(attacked: Attacked, token: str, channels: str = f"channel={CHANNEL}", **headers: str) -> Answer:
    answer = attacked.stream(f"/events/?{channels}&token={token}", headers)
    assert (answer.status == 200) is answer.body.startswith(b"retry:")
    return answer


def bears(attacked: Attacked, token: str) -> Answer:
    return attacked.stream(f"/events/{CHANNEL}/", {"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def token(attacked: Attacked) -> str:
    """Return a token that is valid for ten minutes."""
    return make_token(attacked.site, json.dumps({"read": [CHANNEL], "seconds": 600}))


def test_token_reads_what_it_names(attacked: Attacked, token: str) -> None:
    assert reads(attacked, token).status == bears(attacked, token).status == 200
    for channels in (
        "channel=job.18",
        "channel=user.1",
        f"channel={CHANNEL}&channel=job.18",
        "channel=job.*",
        "channel=JOB.17",
    ):
        assert reads(attacked, token, channels).status in (400, 403)
    # Only the token counts, even if the request also has a user's session.
    person = attacked.user("bearer")
    assert reads(attacked, token, f"channel={person.channel}", Cookie=person.cookie).status == 403


def test_pattern_reaches_as_far_as_it_is_written(attacked: Attacked) -> None:
    pattern = make_token(attacked.site, json.dumps({"read": ["job.1*", "*.open"], "seconds": 600}))
    for name, status in {
        "job.1": 200,
        "job.17": 200,
        "job.1.secret": 200,
        "a.open": 200,
        ".open": 200,
        "job.2": 403,
        "job.": 403,
        "xjob.1": 403,
        "Job.1": 403,
        "open": 403,
        "a.opened": 403,
        "a.Open": 403,
    }.items():
        assert reads(attacked, pattern, f"channel={name}").status == status, name


def test_token_that_was_changed_in_any_place_reads_nothing(attacked: Attacked, token: str) -> None:
    changed = {token[:at] + other(token[at]) + token[at + 1 :] for at in range(len("streams."), len(token))}
    # This includes the last character, whose last bits base64 ignores: there is only one spelling of a signature.
    for each in changed:
        assert reads(attacked, each).status == 403, each
    prefix, payload, stamp, signature = token.split(".")[0], *token.split(".")[1].split(":")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==="))
    more = base64.urlsafe_b64encode(json.dumps({**claims, "r": ["*"]}).encode()).decode().rstrip("=")
    later = base64.urlsafe_b64encode(json.dumps({**claims, "e": claims["e"] + 1}).encode()).decode().rstrip("=")
    for each in (
        *(token[:length] for length in range(len("streams."), len(token), 7)),
        *(f"{prefix}.{forged}:{stamp}:{signature}" for forged in (more, later, payload[:-1], f".{payload}")),
        *(f"{prefix}.{payload}:{moment}:{signature}" for moment in ("", "1", f"{stamp}x")),
        *(
            f"{prefix}.{payload}:{stamp}:{end}"
            for end in ("", "x", signature[::-1], f"{signature}=", f"{signature}{signature}")
        ),
        *(f"{token}{end}" for end in ("x", "=", ":", "%20", "%00", "%0A", "." + token)),
        *(f"{prefix}.{end}" for end in ("", ":", "::", ":::", "e30", "e30:1:x", "%FF", "*", "None", "x" * 5000)),
        *(token.replace("streams.", other) for other in ("", "Streams.", "streams", "streams..", "%20streams.")),
    ):
        assert reads(attacked, each).status == 403, each


def other(character: str) -> str:
    """Return another character that tokens can contain; it differs in one bit if possible."""
    flipped = chr(ord(character) ^ 1)
    return flipped if flipped.isalnum() else "A" if character != "A" else "B"


def test_what_was_signed_for_another_purpose_is_no_token(attacked: Attacked) -> None:
    for signed in json.loads(finish(attacked.site.script(SIGN))):
        for each in (signed, f"streams.{signed}"):
            assert reads(attacked, each).status == bears(attacked, each).status == 403
    person = attacked.user("bearer")
    session = person.cookie.partition("=")[2]
    assert reads(attacked, f"streams.{session}", f"channel={person.channel}").status == 403


def test_token_of_another_site_reads_nothing(attacked: Attacked) -> None:
    site = attacked.site
    key = site.env["SECRET_KEY"]
    try:
        site.env["SECRET_KEY"] = f"{key}!"
        foreign = make_token(site, json.dumps({"read": [CHANNEL], "seconds": 600}))
    finally:
        site.env["SECRET_KEY"] = key
    assert reads(attacked, foreign).status == bears(attacked, foreign).status == 403


def test_token_that_expires_reads_no_longer(attacked: Attacked) -> None:
    short = make_token(attacked.site, json.dumps({"read": [CHANNEL], "seconds": 1.5}))
    was_good = reads(attacked, short).status
    time.sleep(1.6)
    assert (was_good, reads(attacked, short).status) == (200, 403)


def test_several_tokens_are_not_added_up(attacked: Attacked, token: str) -> None:
    another = make_token(attacked.site, json.dumps({"read": ["job.18"], "seconds": 600}))
    both = f"channel={CHANNEL}&channel=job.18"
    assert reads(attacked, f"{token}&token={another}", both).status == 403
    assert reads(attacked, f"{another}&token={token}", both).status == 403
    assert reads(attacked, token, both, Authorization=f"Bearer {another}").status == 403
    # The first token counts, and the header's precedes the URL's. An invalid token is not skipped for a valid one.
    assert reads(attacked, f"streams.bad&token={token}").status == 403
    assert reads(attacked, token, Authorization="Bearer streams.bad").status == 403
    # Streams ignores other Authorization schemes.
    assert reads(attacked, token, Authorization="Basic dTpw").status == 200


def test_token_holds_while_the_sites_key_is_rotated(attacked: Attacked, token: str) -> None:
    """The token stays valid while its key is in SECRET_KEY_FALLBACKS, and becomes invalid when the key is removed."""
    site = attacked.site
    for fallbacks, status in (([site.env["SECRET_KEY"]], 200), ([], 403)):
        server = site.serve(SECRET_KEY="the new one", TEST_SECRET_KEY_FALLBACKS=json.dumps(fallbacks))
        assert reads(Attacked(site, server), token).status == status
        server.stop()
