"""Relay a request to an upstream, and its answer to the client while the connection lasts."""
