"""The message log in the admin: a list with filters, a page for each message, and pruning."""
