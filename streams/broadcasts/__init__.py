"""Broadcasts: messages that staff write in the admin, and send at once or at a scheduled time."""
