"""The chaos suite kills, stops and disconnects the parts of a whole site at random, and counts the resulting faults.

`make chaos SECONDS=60` runs it. `python -m tests.system.chaos --seed N` repeats the random choices of an earlier run.
The operating system's timing differs, so a seed repeats the disruptions but not every result.
"""
