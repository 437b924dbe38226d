"""Pages that report to the test what an EventSource gets, or what another page shows: for browsers that nothing drives.

Reports go to the file that PROBE_FILE names, so that they outlive the server.
"""

import json
import os
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from streams.views import EventStreamView


def file(request: HttpRequest, name: str) -> HttpResponse:
    """One of the files beside this one."""
    kind = "text/javascript" if name.endswith(".js") else "text/html"
    return HttpResponse(Path(__file__).with_name(name).read_bytes(), content_type=kind)


@csrf_exempt
def report(request: HttpRequest) -> HttpResponse:
    """Take a JSON list of records."""
    _write(*json.loads(request.body))
    return HttpResponse(status=204)


class NotedStream(EventStreamView):
    """The stream, and a note of what the browser said about where it stands."""

    def get_cursor(self, request: HttpRequest) -> str | None:
        _write({"kind": "request", "header": request.headers.get("Last-Event-ID"), "query": request.GET.dict()})
        return super().get_cursor(request)


def _write(*records: object) -> None:
    with Path(os.environ["PROBE_FILE"]).open("a") as file:  # one write of whole lines
        file.write("".join(f"{json.dumps(record)}\n" for record in records))
