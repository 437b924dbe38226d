"""The procedure that publishes on PostgreSQL: streams/log/one_trip.py calls it.

PostgreSQL keeps the plans of its statements for each connection, also behind a connection pooler. Planning the same
statements at each publish would take longer than executing them. A database without the procedure works as well, with a
round trip for each statement.

A changed procedure needs a new name: processes of the version before call this one until they have ended.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

MISSING = "EXISTS (SELECT FROM streams_message WHERE id = ANY (wanted) AND position IS NULL)"
WAITING = "EXISTS (SELECT FROM streams_message WHERE position IS NULL AND id > after_id)"

# The head's row. None if another transaction has locked it, or if the database is not the one that is known.
LOCK = """
    SELECT head INTO newest FROM streams_loghead
    WHERE id = 1 AND identity = known_identity AND known_place = concat_ws(
        ' ', pg_relation_filepath(tableoid), extract(epoch FROM pg_postmaster_start_time()),
        current_setting('fsync'), current_setting('synchronous_commit')
    )
    FOR UPDATE SKIP LOCKED;
"""

# Give the positions after `newest` to messages that wait, in the order of their ids.
PLACE = """
    WITH waiting AS MATERIALIZED (
        SELECT id FROM streams_message WHERE position IS NULL AND id > after_id
        ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED
    ), counted AS (
        SELECT id, row_number() OVER (ORDER BY id) AS n FROM waiting
    ), placed AS (
        UPDATE streams_message AS message SET position = newest + n FROM counted
        WHERE message.id = counted.id RETURNING message.id, message.position
    )
    SELECT array_agg(id ORDER BY id), array_agg(position ORDER BY id) INTO some_ids, some_positions FROM placed;
"""

# Insert messages, one for each element of the arrays, and commit. They get positions if the head's lock is free, after
# the messages that wait. Then number what waits, as long as the lock is free. If another process has it, wait until the
# new messages and those `wanted` have their positions, at most `patience` seconds.
#
# `numbered_ids` and `numbered_positions` are the messages that got positions here, `found_ids` and `found_positions`
# those that are `wanted`, with null for a position that they do not have. `must_look`: the caller must go on numbering.
#
# Each statement has a snapshot of its own, younger than the locks that the statements before it have taken.
PUBLISH = f"""
CREATE PROCEDURE streams_publish(
    known_identity text, known_place text, after_id bigint, most integer, patience double precision,
    channels text[], events text[], texts text[], sizes integer[], users text[], keys text[], wanted bigint[],
    OUT new_ids bigint[], OUT times timestamptz[], OUT numbered_ids bigint[], OUT numbered_positions bigint[],
    OUT found_ids bigint[], OUT found_positions bigint[], OUT must_look boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    newest bigint;
    some_ids bigint[];
    some_positions bigint[];
    rounds integer := 0;
    pause double precision := 0.004;
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    must_look := false;
    IF cardinality(channels) > 0 THEN
        {LOCK}
        IF newest IS NOT NULL THEN
            IF {WAITING} THEN
                {PLACE}
                numbered_ids := some_ids; numbered_positions := some_positions;
                newest := newest + coalesce(cardinality(numbered_ids), 0);
            END IF;
            IF cardinality(numbered_ids) = most THEN  -- more may wait, and they come first
                UPDATE streams_loghead SET head = newest WHERE id = 1;
                newest := NULL;
            ELSE
                UPDATE streams_loghead SET head = newest + cardinality(channels) WHERE id = 1;
            END IF;
        END IF;
        WITH added AS (
            INSERT INTO streams_message (position, channel, event, data, size, published_by_id, idempotency_key)
            SELECT newest + n, channel, event, text, size,
                -- Of the type that the user model's primary key has.
                CASE WHEN by IS NOT NULL THEN (
                    json_populate_record(NULL::streams_message, json_build_object('published_by_id', by))
                ).published_by_id END, key
            FROM unnest(channels, events, texts, sizes, users, keys) WITH ORDINALITY
                AS new (channel, event, text, size, by, key, n)
            ORDER BY n
            RETURNING id, position, created_at
        )
        SELECT array_agg(id), array_agg(position), array_agg(created_at) INTO new_ids, some_positions, times FROM added;
        IF newest IS NULL THEN
            wanted := new_ids;
        ELSE
            numbered_ids := numbered_ids || new_ids;
            numbered_positions := numbered_positions || some_positions;
        END IF;
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    END IF;
    LOOP
        newest := NULL;
        IF {WAITING} THEN
            {LOCK}
        END IF;
        must_look := newest IS NOT NULL;
        IF must_look THEN
            {PLACE}
            IF some_ids IS NULL THEN  -- another transaction has locked all that waits
                ROLLBACK;  -- a commit would flush the record of the lock to the disk
                EXIT;
            END IF;
            UPDATE streams_loghead SET head = newest + cardinality(some_ids) WHERE id = 1;
            numbered_ids := numbered_ids || some_ids;
            numbered_positions := numbered_positions || some_positions;
            rounds := rounds + 1;
            EXIT WHEN rounds = 3;  -- the publisher must learn of its own messages soon
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        ELSE
            EXIT WHEN patience <= 0 OR NOT {MISSING};
            -- Asleep on the server: the process would need the processor, and the network, to ask again.
            PERFORM pg_sleep(pause);
            EXIT WHEN NOT {MISSING};
            patience := patience - pause;
            pause := least(2 * pause, 0.016);
        END IF;
    END LOOP;
    IF cardinality(wanted) > 0 AND NOT coalesce(wanted <@ numbered_ids, false) THEN
        SELECT array_agg(id), array_agg(position) INTO found_ids, found_positions
        FROM streams_message WHERE id = ANY (wanted);
    END IF;
END
$$
"""  # noqa: S608 - fixed texts


class RunSQLOnPostgreSQL(migrations.RunSQL):
    """RunSQL that does nothing on other databases."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [
        ("streams", "0006_size_of_the_log"),
    ]

    operations = [
        RunSQLOnPostgreSQL(PUBLISH, reverse_sql="DROP PROCEDURE streams_publish"),
    ]
