"""How Streams runs inside a process: threads, tasks, state after a fork, and the differences in a test run."""
