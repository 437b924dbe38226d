"""Benchmarks to run by hand with `make bench`. They report ratios, because absolute times vary between machines."""
