"""Deliver the messages of the log to the open streams of an event loop."""
