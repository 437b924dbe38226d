"""The publisher processes. They publish until they are killed; the run needs no state from their memory."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator

from django.db import Error, connection, connections, transaction

from streams import NewMessage, publish, publish_many

CHANNELS = [f"public.{number}" for number in range(20)]


# A text contains the publisher's name, a number, and how it is published: "publisher-1.0:17:commits". The messages of
# one name are published one after another, except for GROUPED ones.
ALONE, COMMITS, ROLLS_BACK, KEYED, GROUPED = "alone", "commits", "rolls back", "keyed", "grouped"


def text(name: str, number: int, kind: str) -> str:
    return f"{name}:{number}:{kind}"


class RollBack(Exception):
    """Raised to roll back a transaction."""


def work(name: str, seed: str, how: str, notes: str) -> None:
    """Publish until the process is killed. `how` is "alone" or "in transactions", and some of these are rolled back.

    When the publish call or the transaction has returned, its texts are written to the file `notes`.
    """
    logging.disable(logging.CRITICAL)  # the database is stopped again and again
    publisher = _Publisher(name, random.Random(f"{seed} {name}"), notes)
    while True:
        try:
            publisher.publish_alone() if how == "alone" else publisher.publish_in_a_transaction()
        except RollBack:
            pass
        except Error:
            connections.close_all()
            time.sleep(0.2)
        time.sleep(publisher.choice.uniform(0, 0.2))


class _Publisher:
    def __init__(self, name: str, choice: random.Random, notes: str) -> None:
        self._name = name
        self.choice = choice
        self._number = 0
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _messages(self, count: int, kind: str) -> Iterator[NewMessage]:
        for _ in range(count):
            self._number += 1
            padding = "x" * self.choice.choice([0, 10, 300, 3000])
            yield NewMessage(self.choice.choice(CHANNELS), f"{text(self._name, self._number, kind)}\n{padding}")

    def _note(self, messages: list[NewMessage]) -> None:
        os.write(self._notes, "".join(f"{_first_line(message)}\n" for message in messages).encode())

    def publish_alone(self) -> None:
        messages = list(self._messages(self.choice.choice([1, 1, 1, 2, 3, 4, 5]), ALONE))
        if len(messages) == 1:
            publish(messages[0].channel, messages[0].data)
        else:
            publish_many(messages)
        self._note(messages)

    def publish_in_a_transaction(self) -> None:
        kind = ROLLS_BACK if self.choice.random() < 0.3 else COMMITS
        messages = list(self._messages(self.choice.randint(1, 4), kind))
        with transaction.atomic():
            for message in messages:
                publish(message.channel, message.data)
                with connection.cursor() as cursor:  # the transaction commits both rows or neither
                    cursor.execute("INSERT INTO chaos_committed VALUES (%s)", [_first_line(message)])
                time.sleep(self.choice.choice([0, 0, 0.03]))  # so that others can commit or kill this process here
            if kind == ROLLS_BACK:
                raise RollBack
        self._note(messages)


def _first_line(message: NewMessage) -> str:
    return str(message.data).partition("\n")[0]
