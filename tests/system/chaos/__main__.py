"""python -m tests.system.chaos: disrupt a whole site at random, and count the events that its clients missed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import sys

import django

from tests.support.services import nginx, postgres, redis


def main() -> int:
    # The modules of this package import models, so Django is set up before they are imported.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from tests.system.chaos.broken import BREAKS
    from tests.system.chaos.run import run
    from tests.system.chaos.world import CHANNEL_LAYER, POSTGRES, World

    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument(
        "--notifier", default="", help="its dotted path; by default, channel layers if Redis is installed"
    )
    parser.add_argument(
        "--break", dest="broken", choices=BREAKS, default="", help="break Streams, to check that the suite fails"
    )
    parser.add_argument("--calm", action="store_true", help="run without disruptors")
    given = parser.parse_args()
    for program, package in ((postgres.programs(), "postgresql"), (nginx.program(), "nginx")):
        if program is None:
            parser.error(f"this command needs {package}; to install it: apt-get install {package}")
    print(f"seed {given.seed}", flush=True)
    server = redis.RedisServer() if redis.program() is not None else None
    with contextlib.ExitStack() as closing:
        if server is not None:
            closing.callback(server.remove)
            server.start()
        notifier = given.notifier or (CHANNEL_LAYER if server is not None else POSTGRES)
        world = closing.enter_context(World(given.seed, given.broken, notifier, redis=server))
        verdict = asyncio.run(run(world, seconds=given.seconds, clients=given.clients, disrupted=not given.calm))
    print(verdict)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
