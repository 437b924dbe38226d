"""What the publisher processes do until they are killed: nothing that they know is needed afterwards."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator

from django.db import Error, connection, connections, transaction

from streams import NewMessage, publish, publish_many

CHANNELS = [f"public.{number}" for number in range(20)]


# A text says whose it is, which of them, and what is to become of it: "publisher-1.0:17:commits". Those of one name
# are published one after the other.
ALONE, COMMITS, ROLLS_BACK, KEYED, GROUPED = "alone", "commits", "rolls back", "keyed", "grouped"


def text(name: str, number: int, fate: str) -> str:
    return f"{name}:{number}:{fate}"


class ChangedMyMind(Exception):
    """Raised to leave a transaction by a rollback."""


def work(name: str, seed: str, how: str, notes: str) -> None:
    """Publish for ever; `how` is "alone" or "in transactions", some of which are rolled back.

    Each text whose publishing has returned, or whose transaction has, is written to the file `notes`.
    """
    logging.disable(logging.CRITICAL)  # the database goes away all the time
    publisher = _Publisher(name, random.Random(f"{seed} {name}"), notes)
    while True:
        try:
            publisher.publish_alone() if how == "alone" else publisher.publish_in_a_transaction()
        except ChangedMyMind:
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

    def _messages(self, count: int, fate: str) -> Iterator[NewMessage]:
        for _ in range(count):
            self._number += 1
            padding = "x" * self.choice.choice([0, 10, 300, 3000])
            yield NewMessage(self.choice.choice(CHANNELS), f"{text(self._name, self._number, fate)}\n{padding}")

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
        fate = ROLLS_BACK if self.choice.random() < 0.3 else COMMITS
        messages = list(self._messages(self.choice.randint(1, 4), fate))
        with transaction.atomic():
            for message in messages:
                publish(message.channel, message.data)
                with connection.cursor() as cursor:  # whatever becomes of the transaction, both or neither are there
                    cursor.execute("INSERT INTO chaos_committed VALUES (%s)", [_first_line(message)])
                time.sleep(self.choice.choice([0, 0, 0.03]))  # time enough for others to commit, and for being killed
            if fate == ROLLS_BACK:
                raise ChangedMyMind
        self._note(messages)


def _first_line(message: NewMessage) -> str:
    return str(message.data).partition("\n")[0]
