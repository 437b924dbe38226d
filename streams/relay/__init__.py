"""Stream the answers of large language models: relayed to the client, or stored so that clients can resume them.

This is a separate app, so that only sites that install it have its tables. It uses the log and EventStreamResponse,
which do not depend on it.
"""
