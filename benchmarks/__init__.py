"""Comparisons, run by hand with `make bench`; never a timed test. They give ratios, for machines are noisy."""
