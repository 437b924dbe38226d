"""Streams of large models: relaying an upstream's answer to the client, and answers that survive a dropped connection.

An app of its own, `streams.relay`, so that its tables are only where it is wanted. It builds on the log and on
EventStreamResponse; neither knows of it.
"""
