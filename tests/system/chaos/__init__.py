"""The chaos suite: a whole site whose parts are killed, stopped and cut off at random, and a judge who counts.

`make chaos SECONDS=60` runs it. `python -m tests.system.chaos --seed N` repeats the choices of an earlier run. The
timing of the operating system differs, so that a seed repeats what was done to the site, but not every outcome.
"""
