"""Curves: how the costs grow with connections, channels and processes."""
