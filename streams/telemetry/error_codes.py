"""The codes of error responses, as docs/reference/errors.md lists them. Any other code is from the site's own code."""

CODES = frozenset(
    """
    asgi-required authentication-failed csrf expired-token forbidden idempotency-key-in-use
    idempotency-key-reused internal invalid-channel invalid-end invalid-idempotency-key invalid-json invalid-key
    invalid-max-tokens invalid-messages invalid-model invalid-n invalid-refuse invalid-replay invalid-request
    invalid-stream invalid-stream-options invalid-text invalid-token invalid-tools message-too-large method-not-allowed
    missing-channel model_not_found not-authenticated not-found not-installed not-logged-in permission-denied
    publish-rate refusal request-too-large restarting revoked-token signed-token throttled too-many-answers
    too-many-bytes too-many-channels too-many-messages too-many-parameters too-many-questions too-many-streams
    too-many-streams-of-address too-many-streams-of-user too-many-values tool-calls-unsupported unavailable
    undecided unknown-key unknown-user unsupported-media-type unsupported-tools unusable-token upstream-broken
    upstream-closed upstream-ended upstream-error upstream-malformed upstream-timeout upstream-too-large
    upstream-unreachable
    """.split()  # noqa: SIM905 - easier to read than a list
)
