"""Check a client's request, and make the upstream's request from it. No other module does this.

Only the listed keys are passed on, because some features of such APIs store data, fetch addresses or cost money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.exceptions import HTTPError
from streams.protocol.json_bodies import parse_body
from streams.relay.conf import settings
from streams.relay.upstreams import BaseUpstream, get_upstream

# They are passed on unchanged. The upstream refuses wrong values, at no cost.
PASSED = frozenset(
    [
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "user"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs"),
        *("response_format", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "verbosity", "enable_thinking"),
    ]
)
# They are checked here.
CHECKED = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "tools",
        "max_tokens",
        "max_completion_tokens",
        "thinking_budget",
    ]
)

MESSAGE_KEYS = frozenset(["role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content"])
ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_payload(body: bytes) -> object:
    """Return a request's body as JSON. Raises HTTPError: 413 or 400."""
    if len(body) > (most := settings.RELAY_MAX_REQUEST_BYTES):
        raise HTTPError(
            413,
            "request-too-large",
            f"A request has at most {most} bytes (STREAMS['RELAY_MAX_REQUEST_BYTES']); got {len(body)}.",
        )
    return parse_body(body, most, "RELAY_MAX_REQUEST_BYTES")


def check_request(payload: object, upstream: BaseUpstream) -> dict[str, Any]:
    """Return the upstream's request for a client's parsed JSON, as a new dict. Raises HTTPError: 400 or 404.

    The default model is the upstream's first one. The length of the answer has the client's limit or the site's. A
    stream ends with its usage.
    """
    if not isinstance(payload, Mapping):
        raise _bad("invalid-request", "A request is a JSON object with `messages`.")
    given = {key: value for key, value in payload.items() if value is not None}
    _check_keys(given, PASSED | CHECKED, "")
    body = {key: value for key, value in given.items() if key in PASSED}
    body["model"] = _model(given.get("model"), upstream)
    body["messages"] = _messages(given.get("messages"))
    if "tools" in given:
        body["tools"] = _tools(given["tools"])
    if given.get("n", 1) != 1:
        raise _bad("invalid-n", f"An answer has one choice: n is 1; got {_shown(given['n'])}.")
    body[upstream.max_tokens_key] = _max_tokens(given)
    if "thinking_budget" in given:
        body["thinking_budget"] = _tokens(given["thinking_budget"])
    stream = given.get("stream", False)
    if not isinstance(stream, bool):
        raise _bad("invalid-stream", f"stream is true or false; got {_shown(stream)}.")
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    wants_usage(given)
    return body


def wants_usage(payload: Mapping[str, Any]) -> bool:
    """Return True if the client asks for the usage at a stream's end. Raises HTTPError for invalid stream_options.

    The chunk with the usage has no choice, and clients that have not asked for it read `choices[0]` of each chunk.
    """
    options = payload.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping) or set(options) - {"include_usage", "include_obfuscation"}:
        raise _bad("invalid-stream-options", "stream_options is an object that may have `include_usage`.")
    return options.get("include_usage") is True


def _model(asked: object, upstream: BaseUpstream) -> str:
    if asked is None:
        return upstream.models[0]
    if not isinstance(asked, str):
        raise _bad("invalid-model", f"model is a name; got {_shown(asked)}.")
    if asked not in upstream.models:
        raise HTTPError(
            404, "model_not_found", f"Unknown model {_shown(asked)}. Available: {', '.join(_models(upstream))}."
        )
    return asked


def _models(upstream: BaseUpstream) -> list[str]:
    """Return the models of all upstreams, each once; those of `upstream` first."""
    others = [model for name in settings.UPSTREAMS for model in get_upstream(name).models]
    return list(dict.fromkeys([*upstream.models, *others]))


def _max_tokens(given: Mapping[str, Any]) -> int:
    asked = [_tokens(given[key]) for key in ("max_tokens", "max_completion_tokens") if key in given]
    return min(asked, default=settings.RELAY_MAX_TOKENS)


def _tokens(value: object) -> int:
    most = settings.RELAY_MAX_TOKENS
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise _bad(
        "invalid-max-tokens",
        f"An answer's length is a whole number of tokens from 1 to {most} (STREAMS['RELAY_MAX_TOKENS']); got "
        f"{_shown(value)}.",
    )


def _messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise _bad("invalid-messages", "messages is a list of at least one object with `role` and `content`.")
    if len(messages) > (most := settings.RELAY_MAX_MESSAGES):
        raise _bad(
            "too-many-messages",
            f"A request has at most {most} messages (STREAMS['RELAY_MAX_MESSAGES']); got {len(messages)}.",
        )
    return [_message(message) for message in messages]


def _message(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise _bad("invalid-messages", f"Each message is an object whose role is one of {', '.join(ROLES)}.")
    # Clients send back the messages they got, with empty fields that not every upstream knows.
    given = {key: value for key, value in message.items() if value not in (None, [], {})}
    if given["role"] == "assistant":
        # An upstream's own message: it can have fields that are for the client alone, such as `annotations`, and that
        # no upstream takes back. A client need not know which.
        given = {key: value for key, value in given.items() if key in MESSAGE_KEYS}
        if not {"content", "tool_calls", "refusal"} & set(given):
            given["content"] = ""  # it thought, and said nothing
    _check_keys(given, MESSAGE_KEYS, " in a message")
    content = given.get("content")
    if isinstance(content, list):
        for part in content:
            _check_part(part)
    elif not isinstance(content, str) and not (content is None and (given.get("tool_calls") or given.get("refusal"))):
        raise _bad("invalid-messages", "A message's content is a text, or a list of parts.")
    return {**given, "content": content}


def _check_keys(given: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(set(given) - known):
        raise _bad(
            "unknown-key", f"{unknown[0][:100]!r} is not passed on{where}; known are {', '.join(sorted(known))}."
        )


def _check_part(part: object) -> None:
    """Check a part of a message: a text, an image or a sound. It must contain its value, not an address of it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in ("text", "refusal", "image_url", "input_audio"):
        raise _bad("invalid-messages", "A message's parts are of type text, refusal, image_url or input_audio.")
    if unknown := sorted(set(part) - {"type", kind}):
        raise _bad("unknown-key", f"{unknown[0][:100]!r} is not passed on in a part of type {kind}.")
    value = part.get(kind)
    if kind in ("text", "refusal") and not isinstance(value, str):
        raise _bad("invalid-messages", f"A part of type {kind} has a text as its {kind}.")
    if kind == "image_url" and not (_text_in(value, "url", "detail") or "")[:11].lower() == "data:image/":
        raise _bad("invalid-messages", "An image is given by a URL that holds it: data:image/…;base64,….")
    sound = _text_in(value, "data", "format")
    if kind == "input_audio" and (sound is None or "://" in sound):  # DashScope takes addresses there
        raise _bad("invalid-messages", "A sound is given by its data, in base64, and its format.")


def _text_in(value: object, key: str, other: str) -> str | None:
    """Return the text of `key` in an object that has no keys but these two, or None if there is none."""
    text = value.get(key) if isinstance(value, Mapping) and set(value) <= {key, other} else None
    return text if isinstance(text, str) else None


def _tools(tools: object) -> list[Any]:
    """Return the tools, which must be functions: with other kinds, the upstream searches, fetches and bills."""
    if isinstance(tools, list) and all(isinstance(tool, dict) and tool.get("type") == "function" for tool in tools):
        return tools
    raise _bad("invalid-tools", "tools is a list of objects of type function.")


def _shown(value: object) -> str:
    return repr(value)[:100]


def _bad(code: str, message: str) -> HTTPError:
    return HTTPError(400, code, message)
