"""The message log: append, sequence, prune, read. The only package that writes the log's tables.

Everything here is synchronous, runs on the calling thread's database connection, and can block. Code on an event loop
calls it through `threads.run()`.
"""

from streams.log.appending import append
from streams.log.pruning import delete_through, forget_channel, forget_pruned_channels
from streams.log.reading import (
    PAGE_BYTES,
    PAGE_MESSAGES,
    Head,
    Page,
    current_head,
    earliest,
    head,
    newest,
    newest_of,
    page,
    position_of,
    pruned,
    pruning_marks,
    rows_of,
    start_of_newest,
    tail,
)
from streams.log.references import forget_publisher
from streams.log.sequencing import sequence
from streams.log.transactions import own_transaction

__all__ = [
    "PAGE_BYTES",
    "PAGE_MESSAGES",
    "Head",
    "Page",
    "append",
    "current_head",
    "delete_through",
    "earliest",
    "forget_channel",
    "forget_pruned_channels",
    "forget_publisher",
    "head",
    "newest",
    "newest_of",
    "own_transaction",
    "page",
    "position_of",
    "pruned",
    "pruning_marks",
    "rows_of",
    "sequence",
    "start_of_newest",
    "tail",
]
