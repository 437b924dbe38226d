"""Plans: how PostgreSQL executes the hot queries of a log with two million messages.

Each operation runs once, and EXPLAIN (ANALYZE, BUFFERS) shows the plan of each of its statements. A sequential scan of
streams_message fails the comparison.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import rig
from tests.support.sites import PYTHON, ROOT

MESSAGES = 2_000_000
TABLE = "streams_message"

# Half of the messages are on one channel, most others on 1,000 channels, and the rest on users' own channels. One in a
# thousand has `published_by`, and one in twenty has an idempotency key. There are ten messages a second.
FILL = """
INSERT INTO streams_message (position, channel, event, data, size, created_at, published_by_id, idempotency_key)
SELECT n,
    CASE WHEN n %% 2 = 0 THEN 'busy' WHEN n %% 20 = 1 THEN 'user.' || n %% 99991 ELSE 'channel.' || n %% 997 END,
    'message', 'number ' || n || repeat('x', 100), 110, now() - (%(messages)s - n) * interval '100 ms',
    CASE WHEN n %% 1000 = 0 THEN %(first_user)s + n / 1000 %% 20 END, CASE WHEN n %% 20 = 0 THEN 'key ' || n END
FROM generate_series(1, %(messages)s) AS n
"""


def run() -> None:
    with rig.database("postgresql") as url:
        done = subprocess.run([PYTHON, "-m", "benchmarks.plans"], env=rig.environment(url), cwd=ROOT)
    if done.returncode:
        sys.exit("The comparison of plans failed; see above.")


def _fill() -> list[Any]:
    from django.contrib.auth import get_user_model
    from django.db import connection

    from streams import log
    from streams.models import LogHead

    users = [get_user_model().objects.create(username=f"user {n}") for n in range(20)]
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute(FILL, {"messages": MESSAGES, "first_user": users[0].pk})
        cursor.execute("VACUUM ANALYZE streams_message")
    LogHead.objects.update_or_create(id=LogHead.ROW, defaults={"head": MESSAGES})
    while log.count_size():  # pruning counts the bytes of new messages in steps; on a real site it has counted these
        pass
    return users


def _operations(users: list[Any]) -> dict[str, Callable[[], object]]:
    from django.conf import settings

    from streams import log, publish
    from streams.log import retention

    few, many = ["busy"], ["busy", *(f"channel.{2 * n + 1}" for n in range(49))]

    def cuts(**limits: int) -> Callable[[], object]:
        def ask() -> object:
            settings.STREAMS = {**settings.STREAMS, **dict.fromkeys(RETENTION), **limits}
            return list(retention.cuts())

        return ask

    return {
        "publish": lambda: publish("busy", "x"),
        "publish, key is new": lambda: publish("busy", "x", idempotency_key="fresh"),
        "publish, key is known": lambda: publish("busy", "x", idempotency_key="key 20"),
        "poll": log.head,
        "tail of all channels": lambda: log.between(MESSAGES - 200, MESSAGES),
        "page of 1 channel, early": lambda: log.page(few, 1000, MESSAGES),
        "page of 1 channel, late": lambda: log.page(few, MESSAGES - 2000, MESSAGES),
        "page of a quiet channel": lambda: log.page(["channel.1"], 1000, MESSAGES),
        "page of 50 channels, early": lambda: log.page(many, 1000, MESSAGES),
        "page of 50 channels, late": lambda: log.page(many, MESSAGES - 2000, MESSAGES),
        "newest": lambda: log.newest(MESSAGES),
        "start of the newest 10": lambda: log.start_of_newest(many, 10, MESSAGES),
        "earliest": lambda: log.earliest(many),
        "retention by age": cuts(RETENTION_SECONDS=100_000),
        "retention by age, nothing to do": cuts(RETENTION_SECONDS=1_000_000),
        "retention by bytes": cuts(RETENTION_BYTES=100_000_000),
        "retention by count": cuts(RETENTION_MESSAGES_PER_CHANNEL=100_000),
        "prune a batch": lambda: log.delete_through(100_000, limit=500),
        "delete a user": users[0].delete,
        "delete 5 users": lambda: type(users[0]).objects.filter(pk__in=[user.pk for user in users[1:6]]).delete(),
    }


RETENTION = ("RETENTION_SECONDS", "RETENTION_BYTES", "RETENTION_MESSAGES_PER_CHANNEL")


class _Explainer:
    """Explain each statement that reads the messages before it is executed, and roll back the effects of EXPLAIN."""

    def __init__(self) -> None:
        self.plans: dict[str, dict[str, Any]] = {}  # by the statement's text

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        text = " ".join(sql.split())
        if TABLE in text and text not in self.plans and not text.startswith(("INSERT", "EXPLAIN")):
            self.plans[text] = self._explain(sql, params[0] if many else params)
        return execute(sql, params, many, context)

    def _explain(self, sql: str, params: Any) -> dict[str, Any]:
        from django.db import connection, transaction

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
            (found,) = cursor.fetchone()
            transaction.set_rollback(True)
        plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]
        return plan


def _explained(operation: Callable[[], object]) -> dict[str, dict[str, Any]]:
    """Run an operation while three messages wait for positions; return {statement: plan}."""
    from django.db import connection

    from streams.models import Message

    Message.objects.bulk_create([Message(channel="busy", data="waits", size=5) for _ in range(3)])
    explainer = _Explainer()
    with connection.execute_wrapper(explainer):
        operation()
    return explainer.plans


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _row(name: str, statement: str, explained: dict[str, Any]) -> list[object]:
    nodes = list(_nodes(explained["Plan"]))
    read = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node)
    )
    buffers = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
    kinds = dict.fromkeys(f"{node['Node Type']} {node.get('Index Name', '')}".strip() for node in nodes)
    time = f"{explained['Execution Time']:.1f}"
    return [name, f"{statement[:24]} … {statement[-24:]}", ", ".join(kinds), f"{read:,.0f}", f"{buffers:,}", time]


def main() -> int:
    import django

    django.setup()
    users = _fill()
    rows, scans = [], []
    for name, operation in _operations(users).items():
        for statement, explained in _explained(operation).items():
            rows.append(_row(name, statement, explained))
            if any(
                node["Node Type"] == "Seq Scan" and node["Relation Name"] == TABLE for node in _nodes(explained["Plan"])
            ):
                scans.append(f"{name}: {statement}")
    columns = ["operation", "statement", "plan", "rows read", "buffers", "ms"]
    rig.table(f"Plans of PostgreSQL with {MESSAGES:,} messages", columns, rows)
    for scan in scans:
        print(f"\nSequential scan of {TABLE}, {scan}")
    return 1 if scans else 0


if __name__ == "__main__":
    sys.exit(main())
