"""Answers that are stored in the message log, so that clients can reconnect to them and resume."""
