"""Pages that report the events of an EventSource, or the content of another page, to the test.

They are for browsers that the test does not control. The reports go to the file PROBE_FILE, so that they outlive the
server.
"""

import asyncio
import json
import os
import re
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.views.decorators.csrf import csrf_exempt

from streams.views import EventStreamView


def file(request: HttpRequest, name: str) -> HttpResponse:
    """Serve a file of this directory."""
    kind = "text/javascript" if name.endswith(".js") else "text/html"
    return HttpResponse(Path(__file__).with_name(name).read_bytes(), content_type=kind)


def guide(request: HttpRequest, number: int) -> HttpResponse:
    """Render an HTML example of the guide to JavaScript."""
    text = (Path(settings.BASE_DIR) / "docs" / "guides" / "javascript.md").read_text()
    example = re.findall(r"^```html\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[number]
    start = '<!doctype html><html lang=en><link rel=icon href="data:,"><title>Guide</title>'
    return HttpResponse(Template(start + example).render(RequestContext(request)))


@csrf_exempt
def report(request: HttpRequest) -> HttpResponse:
    """Store a JSON list of records."""
    _write(*json.loads(request.body))
    return HttpResponse(status=204)


class NotedStream(EventStreamView):
    """The stream view, which also records the cursor that the browser sends."""

    def get_cursor(self, request: HttpRequest) -> str | None:
        _write({"kind": "request", "header": request.headers.get("Last-Event-ID"), "query": request.GET.dict()})
        return super().get_cursor(request)


class SnapshotStream(EventStreamView):
    """A stream that begins with its state, which takes a while."""

    async def get_snapshot(self, request: HttpRequest, channels: tuple[str, ...]) -> object:
        await asyncio.sleep(0.3)
        return {"channels": channels}


def _write(*records: object) -> None:
    with Path(os.environ["PROBE_FILE"]).open("a") as file:  # a single write keeps the lines whole
        file.write("".join(f"{json.dumps(record)}\n" for record in records))
