"""The worker: it asks upstreams for the answers that wait, and writes them into the log as they come.

One worker serves many generations on one event loop. Each has a task that reads its upstream; one more task writes for
all of them, in one transaction at a time: a piece waits for at most GENERATION_FLUSH_MILLISECONDS, and the database
sees some twenty transactions a second, however many answers there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from streams import threads
from streams.conf import settings as core_settings
from streams.hub import Backoff
from streams.relay import generations, housekeeping, usage
from streams.relay.answers import open_answer
from streams.relay.conf import settings
from streams.relay.errors import RelayError, UpstreamError
from streams.relay.generations import Batch, Ending
from streams.relay.models import Generation
from streams.relay.upstreams import get_upstream
from streams.threads import LogThreads

logger = logging.getLogger("streams.relay")

State = Generation.State

# How often a worker looks for answers that wait, unless it is called.
LOOK_SECONDS = 0.5

# A lease is renewed so many times while it lasts: two renewals may fail.
RENEWALS = 4

# What a generation may hold that is not stored yet, before its upstream is made to wait.
MAX_PENDING_BYTES = 262_144

# A worker that is stopped has so long to store what it has.
STOP_SECONDS = 5.0

# What the row keeps of an error, and of the upstream's single words; they may be of any length.
MAX_ERROR_CHARACTERS = 2000
MAX_ERROR_BYTES = 65_536
MAX_WORD_CHARACTERS = 64

# A character takes at most six bytes as JSON, and a piece has a few bytes beside its text.
BYTES_PER_CHARACTER = 6
BYTES_AROUND_PIECE = 64

# One thread writes, so that the transactions of one worker never wait for each other.
_writing = LogThreads(1)


class Producer:
    """One generation under way: what came, and what of it is stored."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.task: asyncio.Task[None] | None = None
        self.ending: Ending | None = None
        self.tokens = 0
        self.usage: Mapping[str, Any] | None = None
        self.started = time.monotonic()
        self.room = asyncio.Event()
        self.room.set()
        self._whole: list[str] = []
        self._pending: list[str] = []
        self.pending_bytes = 0
        self.pending_since: float | None = None
        self._number = 0  # of the next piece
        self._position = 0  # of the newest message that is stored
        self._kept = 0  # pieces that the row's text has
        self.batch: Batch | None = None  # what is being stored
        self._surrogate = ""  # the first half of a character whose second comes in the next piece

    def take(self, text: str) -> None:
        """Take a piece of the upstream's answer."""
        self.tokens += 1
        text = self._surrogate + text
        self._surrogate = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._surrogate = text[:-1], text[-1]
        if text := storable(text):
            self._pending.append(text)
            self.pending_bytes += len(text.encode())
            if self.pending_since is None:
                self.pending_since = time.monotonic()
            if self.pending_bytes > MAX_PENDING_BYTES:
                self.room.clear()

    def due(self) -> float | None:
        """When there is something to be stored at the latest, by time.monotonic(); None where there is nothing."""
        if self.batch is not None:
            return 0.0  # what could not be stored is still there
        if self.pending_since is None:
            return None if self.ending is None else 0.0
        at_once = self._number == 0 or self.pending_bytes >= settings.GENERATION_FLUSH_BYTES or self.ending is not None
        return 0.0 if at_once else self.pending_since + settings.GENERATION_FLUSH_MILLISECONDS / 1000

    def collect(self, *, keep_text: bool) -> Batch:
        """What is to be stored now; the same again until it is. With `keep_text`, the row's text as well."""
        if self.batch is not None:
            return self.batch
        self._whole += self._pending
        size = max(1, (core_settings.MAX_MESSAGE_BYTES - BYTES_AROUND_PIECE) // BYTES_PER_CHARACTER)
        text = "".join(self._pending)
        pieces = tuple(text[start : start + size] for start in range(0, len(text), size))
        self._pending.clear()
        self.pending_bytes, self.pending_since = 0, None
        number = self._number + len(pieces)
        keep_text = self.ending is not None or (keep_text and number > self._kept)
        self.batch = Batch(
            self.generation.pk,
            self._number,
            pieces,
            whole="".join(self._whole) if keep_text else None,
            position=self._position,
            ending=self.ending,
        )
        return self.batch

    def stored(self, position: int) -> bool:
        """What was collected is stored, its last message at `position`. Whether that was the generation's end."""
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self._number += len(batch.pieces)
        self._position = position
        if batch.whole is not None:
            self._kept = self._number
            self._whole = [batch.whole]
        if self.pending_bytes <= MAX_PENDING_BYTES:
            self.room.set()
        return batch.ending is not None

    def end(self, state: State, *, finish_reason: str = "", error_code: str = "", error_message: str = "") -> None:
        """The answer has ended; what was taken before is stored with that, or before it."""
        if self._surrogate:
            self._surrogate = ""
            self.take("\ufffd")
            self.tokens -= 1
        self.ending = Ending(
            state,
            finish_reason=finish_reason[:MAX_WORD_CHARACTERS],
            error_code=error_code[:MAX_WORD_CHARACTERS],
            error_message=storable(error_message[:MAX_ERROR_CHARACTERS]),
            usage=self.usage,
            tokens=self.tokens,
            seconds=time.monotonic() - self.started,
        )


def storable(text: str) -> str:
    """`text` as every database can store it: halves of characters and NUL become U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")


class Worker:
    """Serves generations on the running event loop, for as long as run() runs."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._producers: dict[str, Producer] = {}
        self._called = asyncio.Event()  # something may wait, or the end was asked for
        self._news = asyncio.Event()  # something came that is to be stored
        self._doubtful = False  # whether the last transaction was stored is not known
        self._impatient = asyncio.Event()
        self.is_stopping = False

    def call(self) -> None:
        """Look for what waits, now. On the worker's loop, as all methods."""
        self._called.set()

    def stop(self) -> None:
        """Take nothing more. What is under way ends with run()'s grace."""
        self.is_stopping = True
        self._called.set()

    def interrupt(self) -> None:
        """After stop(): wait no longer for what is under way."""
        self._impatient.set()

    def forget(self, id: str) -> None:
        """Stop with a generation that somebody else has ended."""
        if (producer := self._producers.get(id)) is not None:
            self._lose(producer)

    async def run(self, *, linger: float | None = None, grace: float = 0.0) -> None:
        """Serve until stop() is called or, with `linger`, until there was nothing to do for so many seconds.

        Then what is under way has `grace` seconds to come to its end; after them it is interrupted, and says so.
        """
        writing = asyncio.create_task(self._write_on())
        writing.add_done_callback(lambda _: self._called.set())
        backoff = Backoff("Answers that wait could not be looked for; trying again.")
        busy_at = time.monotonic()
        try:
            while not self.is_stopping:
                if writing.done():
                    writing.result()  # raises; it never ends by itself
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
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._called.wait()
            await self._drain(grace)
        finally:
            writing.cancel()
            for producer in tuple(self._producers.values()):
                self._lose(producer)

    async def _look(self) -> None:
        waiting = await threads.run(housekeeping.attend)
        room = settings.GENERATION_CONCURRENCY - len(self._producers)
        if waiting and room > 0 and not self.is_stopping:
            for generation in await threads.run(generations.claim, self.id, room):
                producer = self._producers[generation.pk] = Producer(generation)
                producer.task = asyncio.create_task(self._produce(producer))
                self._news.set()  # there is a lease to be renewed

    async def _drain(self, grace: float) -> None:
        done = asyncio.create_task(self._until_idle())
        impatient = asyncio.create_task(self._impatient.wait())
        await asyncio.wait([done, impatient], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        impatient.cancel()
        for producer in self._producers.values():
            if producer.ending is None:
                if producer.task is not None:
                    producer.task.cancel()
                producer.end(
                    State.INTERRUPTED,
                    error_code="interrupted",
                    error_message="The process that wrote this answer was stopped. Ask again for another answer.",
                )
        self._news.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._until_idle()

    async def _until_idle(self) -> None:
        while self._producers:
            self._called.clear()  # as each that ends calls
            await self._called.wait()

    # --- Reading upstreams ---

    async def _produce(self, producer: Producer) -> None:
        try:
            async with asyncio.timeout(settings.GENERATION_SECONDS):
                finish_reason = await self._read(producer)
        except TimeoutError:
            limit = f"{settings.GENERATION_SECONDS:g} s (STREAMS['GENERATION_SECONDS'])"
            producer.end(State.FAILED, error_code="timeout", error_message=f"The answer took longer than {limit}.")
        except RelayError as error:
            words = error.as_json()["error"]
            producer.end(State.FAILED, error_code=str(words["code"]), error_message=str(words["message"]))
        except Exception:
            logger.exception("An answer failed.")
            producer.end(State.FAILED, error_code="internal", error_message="The answer failed on the server.")
        else:
            producer.end(State.DONE, finish_reason=finish_reason)
        self._news.set()

    async def _read(self, producer: Producer) -> str:
        """Read the whole answer; returns why it ended, in the upstream's word."""
        generation = producer.generation
        answer = await open_answer(get_upstream(generation.upstream), generation.request)
        async with contextlib.aclosing(answer):
            if not answer.is_stream:  # an error, whatever its status: a stream was asked for
                told = await answer.read_json(MAX_ERROR_BYTES)
                raise UpstreamError(told.get("error") or told if isinstance(told, dict) else told)
            async for piece in answer:
                producer.usage = answer.usage
                if piece.text:
                    producer.take(piece.text)
                    self._news.set()
                    await producer.room.wait()
            producer.usage = answer.usage
            return answer.finish_reason or ""

    # --- Writing ---

    async def _write_on(self) -> None:
        backoff = Backoff("Pieces of answers could not be stored; trying again.")
        renewed_at = time.monotonic()
        while True:
            renew_at = renewed_at + settings.GENERATION_LEASE_SECONDS / RENEWALS
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
        """Store what has come, of all generations that have news; of all where the lease is renewed."""
        writing = [producer for producer in self._producers.values() if renew or producer.due() is not None]
        batches = [producer.collect(keep_text=renew) for producer in writing]
        stored = await threads.run(_write, self.id, batches, renew, pool=_writing)
        for producer in writing:
            if producer.batch is None:
                continue  # forgotten meanwhile
            if (position := stored.get(producer.batch.id)) is None:
                self._lose(producer)
            elif producer.stored(position):
                self._producers.pop(producer.generation.pk, None)
                self._called.set()  # there is room again

    async def _settle(self) -> None:
        """Find out what the transaction has stored that nobody knows of, for the connection broke."""
        for producer in tuple(self._producers.values()):
            if producer.batch is None:
                continue
            position = await threads.run(generations.find, producer.batch, pool=_writing)
            if position is not None and producer.batch is not None and producer.stored(position):
                self._producers.pop(producer.generation.pk, None)
        self._doubtful = False

    def _lose(self, producer: Producer) -> None:
        """Stop with a generation that is no longer ours. Somebody else has ended it, and written down what it cost."""
        self._producers.pop(producer.generation.pk, None)
        producer.batch = None
        if producer.task is not None:
            producer.task.cancel()
        job = asyncio.create_task(self._tell_cost(producer))
        _jobs.add(job)  # a loop keeps only a weak reference to its tasks
        job.add_done_callback(_jobs.discard)

    async def _tell_cost(self, producer: Producer) -> None:
        seconds = time.monotonic() - producer.started
        try:
            await threads.run(usage.improve, producer.generation.pk, producer.usage, producer.tokens, seconds)
        except Exception:
            logger.warning("What an answer has cost could not be corrected.", exc_info=True)


_jobs: set[asyncio.Task[None]] = set()


def _write(worker: str, batches: list[Batch], renew: bool) -> dict[str, int]:
    return generations.write(worker, batches, renew=renew)
