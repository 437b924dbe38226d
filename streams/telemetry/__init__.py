"""Telemetry: the events that metrics count, traces from publish to delivery, and the fields of log records.

All other parts of Streams can call it. It imports only the errors.
"""
