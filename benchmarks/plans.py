"""Plans: how both databases execute the hot queries of a log with ten million messages, and how long they take.

Each operation is explained once and timed several times, on a log of ten thousand and on one of ten million messages.
On PostgreSQL, EXPLAIN (ANALYZE, BUFFERS) shows the rows that were read. A scan of the large table fails the comparison.

The large logs take some ten minutes to fill. To keep one, set DATABASE_URL, run `manage.py migrate` with
DJANGO_SETTINGS_MODULE=benchmarks.settings, and run `python -m benchmarks.plans 10000000`, which fills an empty log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import rig
from tests.support.sites import PYTHON, ROOT

SIZES = 10_000, 10_000_000
TABLE = "streams_message"
ROUNDS = 5
SPARSE = 20  # messages on the channel `sparse`, evenly distributed
EXPIRED = 500  # the oldest messages that retention deletes

# Half of the messages are on one channel, most others on 1,000 channels, and the rest on users' own channels. One in a
# thousand has `published_by`, and one in twenty has an idempotency key. There are ten messages a second.
FILL = """
INSERT INTO streams_message (position, channel, event, data, size, created_at, published_by_id, idempotency_key)
{numbers}
SELECT n,
    CASE WHEN n %% {step} = 7 THEN 'sparse' WHEN n %% 2 = 0 THEN 'busy'
        WHEN n %% 20 = 1 THEN 'user.' || (n %% 99991) ELSE 'channel.' || (n %% 997) END,
    'message', 'number ' || n || '{pad}', 110, {time},
    CASE WHEN n %% 1000 = 0 THEN {user} + n / 1000 %% 20 END, CASE WHEN n %% 20 = 0 THEN 'key ' || n END
FROM {source}
"""
PARTS = {
    "postgresql": {
        "numbers": "",
        "source": "generate_series(1, {count}) AS n",
        "time": "now() - ({count} - n) * interval '100 ms'",
    },
    "sqlite": {
        "numbers": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})",
        "source": "numbers",
        "time": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-' || (({count} - n) / 10.0) || ' seconds')",
    },
}

# It reads the whole log, once a day.
COUNTS_ALL = "retention by count, all"

Found = dict[str, Any]


def run() -> None:
    found: dict[str, dict[str, Found]] = {}
    for database in ("sqlite", "postgresql"):
        for size in SIZES:
            with rig.database(database) as url:
                argv = [PYTHON, "-m", "benchmarks.plans", str(size)]
                done = subprocess.run(argv, env=rig.environment(url), cwd=ROOT, stdout=subprocess.PIPE, check=True)
                found[f"{database}, {size:,}"] = json.loads(done.stdout)
    report(found)
    large = {log: each for log, each in found.items() if log.endswith(f"{SIZES[-1]:,}")}
    failed = [f"{log}: {name}" for log, each in large.items() for name in each if each[name]["scans"]]
    failed = [name for name in failed if not name.endswith(COUNTS_ALL)]
    if failed:
        sys.exit("A statement scans the whole table: " + "; ".join(failed))


def report(found: Mapping[str, Mapping[str, Found]]) -> None:
    names = list(next(iter(found.values())))
    columns = ["operation", *(f"{log}, {what}" for log in found for what in ("ms", "queries"))]
    rows = [
        [name, *(cell for each in found.values() for cell in (each[name]["ms"], each[name]["queries"]))]
        for name in names
    ]
    rig.table(f"Operations on small and large logs, the fastest of {ROUNDS}", columns, rows)
    for log, each in found.items():
        plans = [[name, *plan] for name, it in each.items() for plan in it["plans"]]
        rig.table(f"Plans: {log} messages", ["operation", "statement", "plan", "rows read", "ms"], plans)


# --- The log ----------------------------------------------------------------------------------------------------------


def fill(count: int) -> None:
    from django.contrib.auth import get_user_model
    from django.db import connection

    from streams import log
    from streams.models import LogHead, Message

    if Message.objects.exists():
        return
    users = [get_user_model().objects.create(username=f"user {n}") for n in range(20)]
    parts = {name: part.format(count=count) for name, part in PARTS[connection.vendor].items()}
    with connection.cursor() as cursor:
        is_postgresql = connection.vendor == "postgresql"
        cursor.execute("SET synchronous_commit = off" if is_postgresql else "PRAGMA synchronous = off")
        # Without parameters, and so with the doubled percent signs of a text for format().
        cursor.execute(FILL.format(**parts, step=count // SPARSE, user=users[0].pk, pad="x" * 100).replace("%%", "%"))
        # SQLite has no statistics, as on most sites.
        cursor.execute("VACUUM ANALYZE streams_message" if is_postgresql else "PRAGMA wal_checkpoint(TRUNCATE)")
    LogHead.objects.update_or_create(id=LogHead.ROW, defaults={"head": count})
    while log.count_size():  # pruning counts the bytes of new messages in steps; on a real site it has counted these
        pass


# --- The operations ---------------------------------------------------------------------------------------------------


def operations(count: int) -> dict[str, Callable[[], object]]:
    from streams import log, publish
    from streams.log import catalog
    from streams.models import Message

    few, many = ["busy"], ["busy", *(f"channel.{2 * n + 1}" for n in range(49))]
    keys = iter(range(10**9))
    [first] = Message.objects.filter(position__isnull=False).order_by("position").values_list("position", flat=True)[:1]
    old = first + EXPIRED
    busy = Message.objects.filter(channel="busy").count()
    return {
        "publish": lambda: publish("busy", "x"),
        "publish, key is new": lambda: publish("busy", "x", idempotency_key=f"{time.time()} {next(keys)}"),
        "publish, key is known": lambda: publish("busy", "x", idempotency_key=f"key {count - 20}"),
        "poll": log.head,
        "tail of all channels": lambda: log.between(count - 200, count),
        "page of 1 channel, early": lambda: log.page(few, first, count),
        "page of 1 channel, late": lambda: log.page(few, count - 2000, count),
        "page of a sparse channel": lambda: log.page(["sparse"], first, count),
        "page of a channel without messages": lambda: log.page(["nobody's"], first, count),
        "page of 50 channels, early": lambda: log.page(many, first, count),
        "page of 50 channels, late": lambda: log.page(many, count - 2000, count),
        "long page of 50 channels": lambda: log.page(many, first, count, log.LONG_PAGE_MESSAGES),
        "newest": lambda: log.newest(count),
        "start of the newest 10": lambda: log.start_of_newest(many, 10, count),
        "earliest": lambda: log.earliest(many),
        "names of channels": lambda: catalog.channel_names(limit=100),
        "retention by age": cuts(RETENTION_SECONDS=round(log.age_seconds(old))),
        "retention by age, nothing to do": cuts(RETENTION_SECONDS=10**8),
        "retention by age, a channel is kept": cuts({"busy": (0, None)}, RETENTION_SECONDS=round(log.age_seconds(old))),
        "retention by age of a channel": cuts({"busy": (round(log.age_seconds(old)), None)}),
        "retention by bytes": cuts(RETENTION_BYTES=log.size() - 110 * EXPIRED),
        COUNTS_ALL: cuts(RETENTION_MESSAGES_PER_CHANNEL=busy - EXPIRED),
        "retention by count, a minute later": cuts(counted_through=count - 600, RETENTION_MESSAGES_PER_CHANNEL=5000),
        "retention by count of a channel": cuts({"busy": (None, busy - EXPIRED)}),
        "prune a batch": lambda: log.delete_through(count // 2, limit=EXPIRED),
        **pages(count),
    }


RETENTION = ("RETENTION_SECONDS", "RETENTION_BYTES", "RETENTION_MESSAGES_PER_CHANNEL")


def cuts(
    own: Mapping[str, tuple[int | None, int | None]] | None = None, counted_through: int = 0, **limits: int
) -> Callable[[], object]:
    """Return a function that finds the messages to delete, and deletes none."""
    from django.conf import settings

    from streams.channels.rules import Retention
    from streams.log import retention

    def ask() -> object:
        settings.STREAMS = {**settings.STREAMS, **dict.fromkeys(RETENTION), **limits}
        return list(retention.cuts({name: Retention(*kept) for name, kept in (own or {}).items()}, counted_through))

    return ask


def pages(count: int) -> dict[str, Callable[[], object]]:
    """Return functions that request the admin's pages."""
    from django.contrib.auth import get_user_model
    from django.test import Client
    from django.utils import timezone

    client = Client(SERVER_NAME="localhost")
    user, _ = get_user_model().objects.get_or_create(username="root", defaults={"is_staff": True, "is_superuser": True})
    client.force_login(user)
    listed = {
        "list": "message/",
        "list, oldest": "message/?after=0",
        "list, sparse channel": "message/?channel=sparse",
        "search for a type": "message/?type=rare",
        "search for a text, newest": "message/?text=needle",
        "search for a text, oldest": "message/?text=needle&after=0",
        "search in a channel": "message/?channel=busy&text=needle",
        "list of a day": f"message/?day={timezone.localdate()}",
        "message": f"message/event/{count - 2000}/",
        "monitor": "monitor/?channel=busy&channel=sparse",
        "monitor, types": "monitor/types/?channel=busy&channel=sparse&after=0",
        "channels": "channelsettings/",
        "pruning": "message/prune/",
    }

    def get(path: str) -> Callable[[], object]:
        def ask() -> None:
            answer = client.get(f"/admin/streams/{path}", follow=True)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: status {answer.status_code}")

        return ask

    return {f"admin: {name}": get(path) for name, path in listed.items()}


# --- Explaining -------------------------------------------------------------------------------------------------------


class _Explainer:
    """Explain each statement that reads the messages before it is executed, and roll back the effects of EXPLAIN."""

    def __init__(self) -> None:
        self.queries = 0
        self.plans: dict[str, list[object]] = {}  # by the statement's text
        self.scans = False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        text = " ".join(sql.split())
        if text.startswith("EXPLAIN"):
            return execute(sql, params, many, context)
        self.queries += 1
        if TABLE in text and text not in self.plans and not text.startswith("INSERT"):
            # Each channel of a union has the same part.
            shown = f"{text[:40]} … {text[-40:]}" if len(text) > 90 else text
            self.plans[text] = [shown.replace("|", "\\|"), *self._explain(sql, params[0] if many else params)]
        return execute(sql, params, many, context)

    def _explain(self, sql: str, params: Any) -> list[object]:
        from django.db import connection, transaction

        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
                steps = list(dict.fromkeys(row[3] for row in cursor.fetchall()))
                self.scans |= any(step in (f"SCAN {TABLE}", "SCAN U0") for step in steps)
                return ["; ".join(step for step in steps if "(" in step or "SCAN" in step), "", ""]
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
            (found,) = cursor.fetchone()
            transaction.set_rollback(True)
        return self._summary((json.loads(found) if isinstance(found, str) else found)[0])

    def _summary(self, explained: dict[str, Any]) -> list[object]:
        nodes = list(_nodes(explained["Plan"]))
        self.scans |= any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == TABLE for node in nodes)
        read = sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in nodes
            if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node)
        )
        kinds = dict.fromkeys(f"{node['Node Type']} {node.get('Index Name', '')}".strip() for node in nodes)
        return [", ".join(kinds), f"{read:,.0f}", f"{explained['Execution Time']:.1f}"]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def measured(operation: Callable[[], object]) -> Found:
    """Explain an operation while three messages wait for positions, and time it."""
    from django.db import connection

    from streams.models import Message

    Message.objects.bulk_create([Message(channel="busy", data="waits", size=5) for _ in range(3)])
    explainer = _Explainer()
    with connection.execute_wrapper(explainer):
        operation()
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - begun)
    return {
        "ms": 1000 * min(seconds),
        "queries": explainer.queries,
        "plans": list(explainer.plans.values()),
        "scans": explainer.scans,
    }


def main() -> None:
    import django

    django.setup()
    count = int(sys.argv[1])
    fill(count)
    found = {}
    for name, operation in operations(count).items():
        found[name] = measured(operation)
        print(f"{name}: {found[name]['ms']:.1f} ms", file=sys.stderr)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
