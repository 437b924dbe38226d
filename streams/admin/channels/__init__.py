"""Channels in the admin: a list, and a page with the details and the settings of each channel."""
