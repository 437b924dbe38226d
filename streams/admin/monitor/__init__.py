"""The live monitor in the admin: events as they are published."""
