"""The message log: append, sequence, prune, read. The only package that writes the log's tables.

Everything here is synchronous, runs on the calling thread's database connection, and can block. Code on an event loop
calls it through `threads.run()`.
"""

from streams.log.appending import append, store
from streams.log.epochs import Epochs, read_epochs, start_new_epoch
from streams.log.pruning import date_newest, delete_through, erase_channels, forget_channel, forget_pruned_channels
from streams.log.reading import (
    PAGE_BYTES,
    PAGE_MESSAGES,
    Head,
    News,
    Page,
    between,
    continues,
    current_head,
    earliest,
    follow,
    head,
    identify,
    newest,
    newest_of,
    opening,
    page,
    pruned,
    pruning_marks,
    rows_of,
    start_of_newest,
    times_of,
)
from streams.log.references import forget_addressee, forget_publisher
from streams.log.sequencing import finish, sequence, sequence_after_commit, sequencing_transaction
from streams.log.sizing import count_size, size
from streams.log.transactions import own_transaction

__all__ = [
    "PAGE_BYTES",
    "PAGE_MESSAGES",
    "Epochs",
    "Head",
    "News",
    "Page",
    "append",
    "between",
    "continues",
    "count_size",
    "current_head",
    "date_newest",
    "delete_through",
    "earliest",
    "erase_channels",
    "finish",
    "follow",
    "forget_addressee",
    "forget_channel",
    "forget_pruned_channels",
    "forget_publisher",
    "head",
    "identify",
    "newest",
    "newest_of",
    "opening",
    "own_transaction",
    "page",
    "pruned",
    "pruning_marks",
    "read_epochs",
    "rows_of",
    "sequence",
    "sequence_after_commit",
    "sequencing_transaction",
    "size",
    "start_new_epoch",
    "start_of_newest",
    "store",
    "times_of",
]
