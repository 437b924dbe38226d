"""From an OpenAPI document to what a page shows of it. Data in, data out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import slugify

Schema = Mapping[str, Any]

# A request's own JSON, for the eye; what an example holds is written once, in descriptions.py.
INDENT = 2


def context(document: Schema, base: str) -> dict[str, Any]:
    """What the page's template takes. `base`: the API's absolute URL."""
    operations = [
        _operation(path, method, operation, base)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for operation in operations:
        groups[operation["tag"]].append(operation)
    components = document["components"]
    return {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "about": document["info"]["description"],
        "base": base,
        "groups": [{"name": name, "slug": slugify(name), "operations": found} for name, found in groups.items()],
        "objects": [
            {"name": name, "about": marked(schema.get("description", "")), "fields": list(_fields(schema))}
            for name, schema in components["schemas"].items()
        ],
        "schemes": [
            {"name": name, "words": marked(_scheme(each))} for name, each in components["securitySchemes"].items()
        ],
    }


def _operation(path: str, method: str, operation: Schema, base: str) -> dict[str, Any]:
    sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    security = [name for each in operation.get("security", ()) for name in each]
    example = _example(sent)
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "about": marked(operation.get("description", "")),
        "security": security,
        "is_open": {} in operation.get("security", [{}]),
        "parameters": [
            {
                "name": each["name"],
                "place": {"path": "in the path", "query": "in the query", "header": "a header"}[each["in"]],
                "required": each.get("required", False),
                "words": words(each["schema"]),
                "about": marked(each.get("description", "")),
            }
            for each in sorted(operation.get("parameters", ()), key=lambda each: each["in"] != "path")
        ],
        "body": _name(sent["schema"]) if sent else "",
        "example": example,
        "answers": [_answer(status, each) for status, each in operation["responses"].items()],
        "curl": _curl(path, method, operation, base, example, with_token=bool(security)),
    }


def _answer(status: str, answer: Schema) -> dict[str, Any]:
    [content] = answer["content"].values()
    return {
        "status": status,
        "about": answer["description"],
        "object": _name(content["schema"]),
        "example": _example(content),
        "is_error": status >= "400",
    }


def _example(content: Schema) -> str:
    found = [each["value"] for each in content.get("examples", {}).values()]
    return json.dumps(found[0], indent=INDENT, ensure_ascii=False) if found else ""


def _curl(path: str, method: str, operation: Schema, base: str, example: str, *, with_token: bool) -> str:
    url = base.rstrip("/") + path.replace("{channel}", "news")
    lines = [f"curl {shlex.quote(url)}"]
    if with_token:
        # A shell's variable, and so outside of what is quoted.
        kind = "Bearer" if "signedToken" in str(operation.get("security")) else "Token"
        lines.append(f'-H "Authorization: {kind} $TOKEN"')
    if method == "post":
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"-d {shlex.quote(json.dumps(json.loads(example), ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _fields(schema: Schema) -> Iterator[dict[str, Any]]:
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        yield {
            "name": name,
            "required": name in required,
            "words": words(each),
            "about": marked(each.get("description", "")),
        }


def _name(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _scheme(scheme: Schema) -> str:
    if "description" in scheme:
        return str(scheme["description"])
    if scheme["type"] == "http":
        return "A user's name and password, as HTTP has it."
    if scheme["in"] == "cookie":
        return (
            f"The session of a browser, in the cookie `{scheme['name']}`. What changes something takes the CSRF token."
        )
    return f"In the {scheme['in']} `{scheme['name']}`."


# --- In words ---------------------------------------------------------------------------------------------------------


def marked(text: str) -> SafeString:
    """A text, in which what stands between backticks is code."""
    parts = text.split("`")
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", each) if n % 2 else each,) for n, each in enumerate(parts))
    )


def words(schema: Schema) -> SafeString:
    """What a schema admits."""
    text = _kind(schema)
    return format_html("{}, or null", text) if schema.get("nullable") else text


def _kind(schema: Schema) -> SafeString:
    if name := _name(schema):
        return format_html('<a href="#{}">{}</a>', name, name)
    for several in ("allOf", "oneOf", "anyOf"):
        if several in schema:
            return format_html_join(" or ", "{}", ((_kind(each),) for each in schema[several]))
    if "enum" in schema:
        return format_html_join(" or ", "<code>{}</code>", ((each,) for each in schema["enum"]))
    kind = schema.get("type")
    if kind == "array":
        most = f"; at most {schema['maxItems']:,} of them" if "maxItems" in schema else ""
        return format_html("list of {}{}", _kind(schema["items"]), most)
    if kind == "object":
        values = schema.get("additionalProperties")
        return format_html("object of {}", _kind(values)) if isinstance(values, Mapping) else format_html("object")
    named = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    name = {"date-time": "moment (ISO 8601)"}.get(schema.get("format", ""), named.get(str(kind), "any JSON"))
    return format_html("{}{}", name, _range(schema))


def _range(schema: Schema) -> str:
    least = schema.get("minimum", schema.get("minLength"))
    most = schema.get("maximum", schema.get("maxLength"))
    unit = " characters" if "maxLength" in schema else ""
    if most is not None:
        # 18 digits of a position's bound would say nothing to anybody.
        bounds = f"{least or 0} to {most:,}" if most < 10**12 else f"from {least or 0}"
        return f", {bounds}{unit}"
    return f", from {least}{unit}" if least is not None else ""
