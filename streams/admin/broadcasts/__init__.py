"""Broadcasts in the admin: write a draft, send or schedule it, and see its result."""
