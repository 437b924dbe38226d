"""Tasks of Celery that publish."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgiref.sync import async_to_sync
from celery import shared_task
from celery.signals import worker_init
from django.db import transaction

from streams import apublish, publish


@worker_init.connect
def publish_before_the_fork(**kwargs: Any) -> None:
    """Publish in the process from which Celery forks its workers, so that this one has threads and connections."""
    publish("public.worker", "by the parent")
    asyncio.run(apublish("public.worker", "by a thread of the parent"))


@shared_task
def in_transaction(channel: str, number: int) -> None:
    with transaction.atomic():
        publish(channel, f"{number}")


@shared_task
def rolled_back(channel: str) -> None:
    try:
        with transaction.atomic():
            publish(channel, "never")
            raise ArithmeticError
    except ArithmeticError:
        pass


@shared_task
def on_a_loop(channel: str, number: int) -> None:
    async_to_sync(apublish)(channel, f"{number}")


@shared_task
def pid(channel: str) -> None:
    publish(channel, f"{os.getpid()}")
