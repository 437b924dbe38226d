"""nchan, a module of nginx, with one worker process and messages in memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import files, rig
from benchmarks.bare import payload
from benchmarks.peers.base import Peer
from tests.support.services.nginx import program

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PUBLISHERS = 16  # connections that publish at the same time in a burst

CONFIGURATION = """
load_module {module};
{user}
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /events/ {{
            nchan_subscriber eventsource;
            nchan_channel_id news;
            nchan_subscriber_first_message newest;
            nchan_subscriber_timeout 0;
        }}
        location = /publish/ {{
            nchan_publisher;
            nchan_channel_id news;
            nchan_message_buffer_length 5000;  # a subscriber that is slower than a burst misses nothing
            nchan_message_timeout 1h;
        }}
    }}
}}
"""


class Nchan(Peer):
    name, path = "nchan, nginx", "/events/"

    def missing(self) -> str:
        found = program() is not None and MODULE.exists()
        return "" if found else "`apt-get install nginx libnginx-mod-nchan` brings nchan on Debian"

    def versions(self) -> Mapping[str, str]:
        nginx = subprocess.run([str(program()), "-v"], capture_output=True, text=True, check=True).stderr
        versions = {"nginx": nginx.strip().rpartition("/")[2]}
        if shutil.which("dpkg-query"):
            argv = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
            versions["nchan"] = subprocess.run(argv, capture_output=True, text=True).stdout or "unknown"
        return versions

    def command(self, port: int, folder: Path) -> list[str]:
        folder.chmod(0o755)
        path = folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""  # otherwise its worker could not use the folder
        limit = files.raise_limit()
        path.write_text(CONFIGURATION.format(module=MODULE, folder=folder, port=port, user=user, files=limit))
        return [str(program()), "-c", str(path), "-e", str(folder / "error.log"), "-g", "daemon off;"]

    def publish(self, server: rig.Server, events: int, rate: float) -> None:
        """Publish over HTTP, because nchan has no other way. The publisher's own CPU is not counted."""
        numbers = iter(range(events))
        start = time.monotonic()

        async def work(numbers: Iterator[int]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for n in numbers:
                if rate:
                    await asyncio.sleep(max(0.0, start + n / rate - time.monotonic()))
                body = json.dumps(payload(n), separators=(",", ":")).encode()
                writer.write(b"POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                if not re.match(rb"HTTP/1.1 20[12] ", head) or length is None:
                    raise RuntimeError(head.decode("latin-1"))
                await reader.readexactly(int(length[1]))
            writer.close()

        async def all_of_them() -> None:
            await asyncio.gather(*(work(numbers) for _ in range(1 if rate else PUBLISHERS)))

        asyncio.run(all_of_them())
