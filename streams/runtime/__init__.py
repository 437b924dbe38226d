"""How Streams runs inside a process: its threads, its tasks, its state after a fork, and what a test run changes."""
