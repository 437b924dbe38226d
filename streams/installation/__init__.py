"""The setup of a project: the changes that `streams_init` makes to its files, and the checks of its server."""
