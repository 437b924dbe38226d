"""The chaos suite: a whole site whose parts are killed, stopped and cut off at random, and a judge who counts.

`make chaos SECONDS=60` runs it, and `python -m tests.chaos --seed N` once more with the same choices. The operating
system's timing is its own, so that a seed repeats what was done to the site and not every outcome.
"""
