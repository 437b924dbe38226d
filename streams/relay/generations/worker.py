"""The worker: sends queued requests to their upstreams, and writes the answers to the log while they arrive.

One worker serves many generations on one event loop. For each of them, one task reads from the upstream. One more task
writes for all of them, one transaction at a time. So a chunk waits for at most GENERATION_FLUSH_MILLISECONDS, and the
database has about twenty transactions per second for any number of answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable

from django.db import InterfaceError, OperationalError

from streams.exceptions import HTTPError
from streams.relay.conf import settings
from streams.relay.errors import openai_error
from streams.relay.generations import housekeeping, store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.generations.producer import Producer
from streams.relay.models import Generation
from streams.relay.proxy.answers import open_answer
from streams.relay.upstreams import get_upstream
from streams.relay.usage import counted
from streams.runtime import executor
from streams.runtime.executor import LogThreads
from streams.runtime.failures import Backoff
from streams.runtime.resets import per_process
from streams.runtime.tasks import spawn
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.relay")

State = Generation.State

# How often a worker looks for queued answers if call() does not wake it.
LOOK_SECONDS = 0.5

# A lease is renewed this often during its lifetime, so that two renewals can fail, and at least every RENEW_SECONDS: if
# the upstream is silent, the worker notices only then that a generation was cancelled.
RENEWALS = 4
RENEW_SECONDS = 2.0

# After a failure, the worker tries again before other processes consider it dead (see housekeeping).
MAX_BACKOFF_SECONDS = 1.0

# The time that a stopped worker has to store its last batches.
STOP_SECONDS = 5.0

CALLS_TOOLS = (
    "The model called a tool, which generations do not support. To call tools, use the relay (v1/chat/completions)."
)
FAILED_HERE = "The answer failed on the server. Send the request again."

# Only one thread writes, so that the transactions of one worker never wait for each other.
_writing = per_process(LogThreads, 1, seconds=executor.timeout_seconds)


class Worker:
    """Serves generations on the running event loop, while run() runs. All methods must be called on that loop."""

    def __init__(self, look_seconds: float = LOOK_SECONDS) -> None:
        self.id = uuid.uuid4().hex
        self._look_seconds = look_seconds
        self._producers: dict[str, Producer] = {}
        self._called = asyncio.Event()  # a generation might wait, or stop() was called
        self._news = asyncio.Event()  # there is something to store
        self._doubtful = False  # it is not known if the last transaction was committed
        self.is_stopping = False
        self._is_interrupted = False

    def call(self) -> None:
        """Look for queued generations now."""
        self._called.set()

    def stop(self) -> None:
        """Claim no more generations. Running ones can go on for the `grace` of run()."""
        self.is_stopping = True
        self._called.set()

    def interrupt(self) -> None:
        """After stop(): do not wait any longer for running generations."""
        self._is_interrupted = True
        self._called.set()

    def forget(self, id: str) -> None:
        """Stop a generation that was ended from outside."""
        if (producer := self._producers.get(id)) is not None:
            self._lose(producer)

    async def run(self, *, linger: float | None = None, grace: float = 0.0) -> None:
        """Serve until stop() is called or, with `linger`, until there was nothing to do for that many seconds.

        Then running generations have `grace` seconds to end. After that they are interrupted, which is stored as their
        end.
        """
        writing = asyncio.create_task(self._write_on())
        writing.add_done_callback(lambda _: self._called.set())
        backoff = Backoff(logger, "Could not look for queued answers; trying again.", max_seconds=MAX_BACKOFF_SECONDS)
        busy_at = time.monotonic()
        try:
            while not self.is_stopping:
                if writing.done():
                    writing.result()  # raises its error, because it never ends otherwise
                self._called.clear()
                try:
                    await self._look()
                    backoff.reset()
                except Exception:
                    await backoff.wait()
                if self._producers:
                    busy_at = time.monotonic()
                elif linger is not None and time.monotonic() - busy_at >= linger:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_seconds):
                        await self._called.wait()
            await self._drain(grace)
        finally:
            writing.cancel()
            for producer in tuple(self._producers.values()):
                self._lose(producer)

    async def _look(self) -> None:
        waiting = await executor.run(housekeeping.reap)
        room = settings.GENERATION_CONCURRENCY - len(self._producers)
        if waiting and room > 0 and not self.is_stopping:
            for generation in await executor.run(store.claim, self.id, room):
                producer = self._producers[generation.pk] = Producer(generation)
                producer.task = asyncio.create_task(self._produce(producer))
                self._news.set()  # there is a lease to renew

    async def _drain(self, grace: float) -> None:
        await self._wait(grace, until=lambda: not self._producers or self._is_interrupted)
        for producer in self._producers.values():
            if producer.ending is None:
                if producer.task is not None:
                    producer.task.cancel()
                producer.end(
                    State.INTERRUPTED,
                    code="interrupted",
                    message="The process that wrote this answer was stopped. Send the request again.",
                )
        self._news.set()
        await self._wait(STOP_SECONDS, until=lambda: not self._producers)

    async def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not until():
                    self._called.clear()  # _drop() sets it for each generation that ends
                    await self._called.wait()

    # --- Reading upstreams ---

    async def _produce(self, producer: Producer) -> None:
        try:
            async with asyncio.timeout(settings.GENERATION_SECONDS):
                finish_reason = await self._read(producer)
        except TimeoutError:
            limit = f"{settings.GENERATION_SECONDS:g} s (STREAMS['GENERATION_SECONDS'])"
            producer.end(State.FAILED, code="timeout", message=f"The answer took longer than {limit}.")
        except HTTPError as error:
            words = openai_error(error)["error"]
            producer.end(State.FAILED, code=str(words["code"]), message=str(words["message"]))
        except Exception:
            extra = fields(event="answer-failed", generation=producer.generation.pk)
            logger.exception("An answer failed.", extra=extra)
            producer.end(State.FAILED, code="internal", message=FAILED_HERE)
        else:
            producer.end(State.DONE, reason=finish_reason)
        self._news.set()

    async def _read(self, producer: Producer) -> str:
        """Read the whole answer, and return its finish reason as the upstream reported it."""
        generation = producer.generation
        later = settings.GENERATION_SECONDS + STOP_SECONDS  # so that GENERATION_SECONDS ends it first
        answer = await open_answer(get_upstream(generation.upstream), generation.request, total_seconds=later)
        is_refused = False
        async with contextlib.aclosing(answer):
            if not answer.is_stream or answer.status >= 400:
                raise await answer.read_error()
            async for chunk in answer:
                producer.usage = answer.usage
                if chunk.calls_tools:
                    raise HTTPError(502, "tool-calls-unsupported", CALLS_TOOLS)
                is_refused = is_refused or bool(chunk.refusal)
                if text := chunk.text + chunk.refusal:
                    producer.take(text)
                    self._news.set()
                    await producer.room.wait()
            producer.usage = answer.usage
            if answer.finish_reason in ("tool_calls", "function_call"):
                raise HTTPError(502, "tool-calls-unsupported", CALLS_TOOLS)
            if is_refused:
                raise HTTPError(502, "refusal", "The model refused to answer. The text contains its refusal.")
            return answer.finish_reason or ""

    # --- Writing ---

    async def _write_on(self) -> None:
        backoff = Backoff(logger, "Could not store chunks of answers; trying again.", max_seconds=MAX_BACKOFF_SECONDS)
        renewed_at = time.monotonic()
        while True:
            renew_at = renewed_at + min(RENEW_SECONDS, settings.GENERATION_LEASE_SECONDS / RENEWALS)
            await self._wait_until_due(renew_at)
            now = time.monotonic()
            renew = now >= renew_at
            try:
                if self._doubtful:
                    await self._settle()
                await self._write(renew=renew)
                backoff.reset()
            except Exception:
                self._doubtful = True
                await backoff.wait()
            else:
                renewed_at = now if renew else renewed_at

    async def _wait_until_due(self, renew_at: float) -> None:
        while True:
            self._news.clear()
            dues = [due for producer in self._producers.values() if (due := producer.due()) is not None]
            if not self._producers:
                await self._news.wait()
                continue
            if (pause := min([renew_at, *dues]) - time.monotonic()) <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def _write(self, *, renew: bool) -> None:
        """Store the due batches of all generations. To renew leases, include generations that have nothing to store."""
        writing = [producer for producer in self._producers.values() if renew or producer.due() is not None]
        batches = [producer.collect(keep_text=renew) for producer in writing]
        try:
            stored = await executor.run(store.write, self.id, batches, renew, pool=_writing)
        except (InterfaceError, OperationalError):
            raise  # the database failed, not one of the batches
        except Exception:
            # One batch cannot be stored. Store the others.
            stored = await self._write_one_by_one(batches, renew)
        for producer in writing:
            if producer.batch is None:
                continue  # forget() was called in between
            if (position := stored.get(producer.batch.id)) is None:
                self._lose(producer)
            elif producer.stored(position):
                self._drop(producer)

    async def _write_one_by_one(self, batches: list[Batch], renew: bool) -> dict[str, int]:
        stored: dict[str, int] = {}
        for batch in batches:
            try:
                stored |= await executor.run(store.write, self.id, [batch], renew, pool=_writing)
            except (InterfaceError, OperationalError):
                raise
            except Exception:
                extra = fields(event="answer-failed", generation=batch.id)
                logger.exception("Cannot store the answer %s any further; ending it.", batch.id, extra=extra)
                await self._give_up(batch.id)
        return stored

    async def _give_up(self, id: str) -> None:
        """End a generation with the text that is stored. If this fails as well, its lease expires."""
        ending = Ending(State.FAILED, error_code="internal", error_message=FAILED_HERE)
        try:
            await executor.run(store.end, id, ending, pool=_writing)
        except Exception:
            logger.exception("Could not end the answer %s.", id)

    async def _settle(self) -> None:
        """Find out if the last transaction was committed before the connection broke."""
        for producer in tuple(self._producers.values()):
            if producer.batch is None:
                continue
            position = await executor.run(store.find, producer.batch, pool=_writing)
            if position is not None and producer.batch is not None and producer.stored(position):
                self._drop(producer)
        self._doubtful = False

    def _drop(self, producer: Producer) -> None:
        self._producers.pop(producer.generation.pk, None)
        self._called.set()  # there is room for another one, or nothing left to do

    def _lose(self, producer: Producer) -> None:
        """Stop a generation that does not belong to this worker any more, because it was ended or deleted."""
        self._drop(producer)
        producer.batch = None
        if producer.task is not None:
            producer.task.cancel()
        spawn(self._correct_usage(producer), finish=True)

    async def _correct_usage(self, producer: Producer) -> None:
        found = counted(producer.usage)
        try:
            await executor.run(store.correct, producer.generation, found, producer.tokens, producer.seconds)
        except Exception:
            logger.warning("Could not record the usage of an answer.", exc_info=True)
