"""The message log: append, sequence, prune, read. The only package that writes the log's tables.

Everything here is synchronous, runs on the calling thread's database connection, and can block. Code on an event loop
calls it through `executor.run()`.
"""
# Every name that is imported here can be imported from here.
# ruff: noqa: F401
# mypy: implicit-reexport

from streams.log.appending import append, store
from streams.log.epochs import Epochs, read_epochs, start_new_epoch
from streams.log.pruning import (
    date_newest,
    delete_through,
    erase_channels,
    forget_addressee,
    forget_channel,
    forget_pruned_channels,
    forget_publisher,
)
from streams.log.reading import (
    LONG_PAGE_MESSAGES,
    MAX_POSITION,
    PAGE_BYTES,
    PAGE_MESSAGES,
    Head,
    News,
    Page,
    Row,
    age_seconds,
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
from streams.log.sequencing import finish, sequence, sequence_after_commit, sequencing_transaction
from streams.log.sizing import count_size, size
from streams.log.transactions import own_transaction
