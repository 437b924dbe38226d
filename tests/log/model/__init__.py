"""A model of how messages get their positions on PostgreSQL, and a search through all of its states."""
